//! The answers to [`super::CATALOG_QUERIES`] as checked rows.

use super::queries::{CATALOG_QUERIES, SYSTEM_RELATIONS};
use super::{Argument, Signature};

/// The rows of every catalog query.
#[derive(Clone, Debug, Default)]
pub struct CatalogRows {
    /// The `search_path` with which the server deparsed definitions.
    pub(super) search_path: String,
    /// Those that sessions may have by default (`ALTER ROLE … SET`, `ALTER DATABASE … SET`), a line each.
    pub(super) default_paths: String,
    /// Writes may notify without saying so.
    pub(super) writes_may_notify: bool,
    /// There is code that may catch its own cancellation.
    pub(super) catches_cancels: bool,
    /// There is code that may make settings of timeouts.
    pub(super) lifts_timeouts: bool,
    pub(super) schemas: Vec<SchemaRow>,
    pub(super) builtins: Vec<BuiltinRow>,
    pub(super) functions: Vec<FunctionRow>,
    /// Aggregate and the functions it is made of.
    pub(super) aggregates: Vec<(u32, Vec<u32>)>,
    pub(super) types: Vec<TypeRow>,
    pub(super) relations: Vec<RelationRow>,
    /// Relation and what its policy evaluates.
    pub(super) policies: Vec<(u32, String)>,
    /// Relations with a child that a standby can't read.
    pub(super) parents: Vec<u32>,
    pub(super) operators: Vec<OperatorRow>,
    pub(super) casts: Vec<CastRow>,
    /// Type and function.
    pub(super) operator_classes: Vec<(u32, u32)>,
    /// Relation and a function that is called when a query over it is planned.
    pub(super) planned: Vec<(u32, u32)>,
    /// Built-ins, with their names, of which something of the database's own is made.
    pub(super) builtin_parts: Vec<(u32, String)>,
    /// Functions that a write may run without naming them, the names of the built-ins among them, and whether only a change
    /// of the schema does.
    pub(super) implied: Vec<(u32, Option<String>, bool)>,
}

#[derive(Clone, Debug)]
pub(super) struct SchemaRow {
    pub oid: u32,
    pub name: String,
    pub role: bool,
}

#[derive(Clone, Debug)]
pub(super) struct BuiltinRow {
    pub name: String,
    pub volatile: bool,
    pub stable: bool,
    pub returns_row: bool,
}

#[derive(Clone, Debug)]
pub(super) struct FunctionRow {
    pub oid: u32,
    pub schema: u32,
    pub name: String,
    pub language: String,
    pub volatility: char,
    /// `schema` is still 0 here.
    pub signature: Signature,
    pub returns: u32,
    pub returns_row: bool,
    pub extension: Option<String>,
    pub body: Option<String>,
    pub defaults: Option<String>,
    /// Types of all arguments, also those that are returned.
    pub types: Vec<u32>,
    pub aggregate: bool,
    /// It is `SECURITY DEFINER`.
    pub as_owner: bool,
    /// What its `SET` clauses set, in lower case.
    pub sets: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct TypeRow {
    pub oid: u32,
    pub schema: u32,
    pub name: String,
    /// What it is made of: base type, element, subtype, fields.
    pub parts: Vec<u32>,
    pub checks: Option<String>,
    pub is_domain: bool,
    /// Every type of this name is an enumeration.
    pub is_enum: bool,
}

#[derive(Clone, Debug)]
pub(super) struct RelationRow {
    pub oid: u32,
    pub schema: u32,
    pub name: String,
    pub kind: char,
    pub unlogged: bool,
    pub row_type: u32,
    /// Types of the database's own among its columns.
    pub types: Vec<u32>,
    pub definition: Option<String>,
    pub composite_column: bool,
}

#[derive(Clone, Debug)]
pub(super) struct OperatorRow {
    pub schema: u32,
    pub name: String,
    pub function: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CastRow {
    pub source: u32,
    pub target: u32,
    /// 0 if it has none.
    pub function: u32,
    pub implicit: bool,
}

/// An answer that does not have the shape asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CatalogRowsError {
    #[error("{got} result sets, expected {expected}: run every query of CATALOG_QUERIES, each once and in order")]
    ResultCount { got: usize, expected: usize },
    #[error("catalog query \"{query}\": column {column} of a row is {value:?}, expected {expected}")]
    Value { query: &'static str, column: usize, value: Option<String>, expected: &'static str },
}

impl CatalogRows {
    /// Takes the results of [`CATALOG_QUERIES`], in order: queries, rows, columns, in text format.
    pub fn from_results(results: Vec<Vec<Vec<Option<String>>>>) -> Result<CatalogRows, CatalogRowsError> {
        let (got, expected) = (results.len(), CATALOG_QUERIES.len());
        if got != expected {
            return Err(CatalogRowsError::ResultCount { got, expected });
        }
        let mut rows = CatalogRows::default();
        for ((query, _), result) in CATALOG_QUERIES.iter().zip(results) {
            for columns in result {
                rows.add(&Row { query, columns })?;
            }
        }
        Ok(rows)
    }

    fn add(&mut self, row: &Row) -> Result<(), CatalogRowsError> {
        match row.query {
            "context" => {
                (self.search_path, self.default_paths) = (row.text(1)?, row.optional(2).unwrap_or_default());
                (self.writes_may_notify, self.catches_cancels) = (row.bool(3)?, row.bool(4)?);
                self.lifts_timeouts = row.bool(5)?;
            }
            "schemas" => self.schemas.push(SchemaRow { oid: row.oid(0)?, name: row.text(1)?, role: row.bool(2)? }),
            "builtins" => self.builtins.push(BuiltinRow {
                name: row.text(0)?,
                volatile: row.bool(1)?,
                stable: row.bool(2)?,
                returns_row: row.bool(3)?,
            }),
            "functions" => self.functions.push(row.function()?),
            "aggregates" => self.aggregates.push((row.oid(0)?, row.oids(1)?)),
            "types" => self.types.push(TypeRow {
                oid: row.oid(0)?,
                schema: row.oid(1)?,
                name: row.text(2)?,
                parts: row.oids(5)?,
                checks: row.optional(6),
                is_domain: row.char(3)? == 'd',
                is_enum: row.bool(7)?,
            }),
            SYSTEM_RELATIONS | "relations" => self.relations.push(row.relation()?),
            "policies" => self.policies.push((row.oid(0)?, row.text(1)?)),
            "parents" => self.parents.push(row.oid(0)?),
            "operators" => {
                self.operators.push(OperatorRow { schema: row.oid(0)?, name: row.text(1)?, function: row.oid(2)? })
            }
            "casts" => self.casts.push(CastRow {
                source: row.oid(0)?,
                target: row.oid(1)?,
                function: row.oid(2)?,
                implicit: row.char(3)? == 'i',
            }),
            "operator_classes" => self.operator_classes.push((row.oid(0)?, row.oid(1)?)),
            "planned" => self.planned.push((row.oid(0)?, row.oid(1)?)),
            "builtin_parts" => self.builtin_parts.push((row.oid(0)?, row.text(1)?)),
            _ => self.implied.push((row.oid(0)?, row.optional(1), row.bool(2)?)),
        }
        Ok(())
    }
}

struct Row {
    query: &'static str,
    columns: Vec<Option<String>>,
}

impl Row {
    fn optional(&self, column: usize) -> Option<String> {
        self.columns.get(column).cloned().flatten()
    }

    fn wrong(&self, column: usize, expected: &'static str) -> CatalogRowsError {
        CatalogRowsError::Value { query: self.query, column, value: self.optional(column), expected }
    }

    fn parsed<T: std::str::FromStr>(&self, column: usize, expected: &'static str) -> Result<T, CatalogRowsError> {
        let value = self.columns.get(column).and_then(Option::as_ref);
        value.and_then(|value| value.parse().ok()).ok_or_else(|| self.wrong(column, expected))
    }

    fn text(&self, column: usize) -> Result<String, CatalogRowsError> {
        self.parsed(column, "text")
    }

    fn oid(&self, column: usize) -> Result<u32, CatalogRowsError> {
        self.parsed(column, "an OID")
    }

    fn count(&self, column: usize) -> Result<usize, CatalogRowsError> {
        self.parsed(column, "a count")
    }

    fn char(&self, column: usize) -> Result<char, CatalogRowsError> {
        self.parsed(column, "one character")
    }

    fn bool(&self, column: usize) -> Result<bool, CatalogRowsError> {
        match self.columns.get(column).and_then(Option::as_deref) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(self.wrong(column, "t or f")),
        }
    }

    /// OIDs apart by spaces or, as in an array, by commas within braces. Null is none.
    fn oids(&self, column: usize) -> Result<Vec<u32>, CatalogRowsError> {
        let text = self.optional(column).unwrap_or_default();
        let parts = text.split([' ', ',', '{', '}']).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().map_err(|_| self.wrong(column, "a list of OIDs"))).collect()
    }

    fn function(&self) -> Result<FunctionRow, CatalogRowsError> {
        let (count, defaults) = (self.count(6)?, self.count(7)?);
        let variadic = self.bool(8)?;
        let arguments = self.arguments(11)?;
        let mut types: Vec<u32> = arguments.iter().map(|argument| argument.oid).collect();
        types.extend(self.oids(15)?);
        let least = count.saturating_sub(defaults).saturating_sub(usize::from(variadic));
        Ok(FunctionRow {
            oid: self.oid(0)?,
            schema: self.oid(1)?,
            name: self.text(2)?,
            language: self.text(4)?,
            volatility: self.char(5)?,
            signature: Signature { schema: 0, least, most: (!variadic).then_some(count), arguments },
            returns: self.oid(9)?,
            returns_row: self.bool(10)?,
            extension: self.optional(12),
            body: self.optional(13),
            defaults: self.optional(14),
            types,
            aggregate: self.char(3)? == 'a',
            as_owner: self.bool(16)?,
            sets: self.optional(17).unwrap_or_default().lines().map(str::to_ascii_lowercase).collect(),
        })
    }

    fn arguments(&self, column: usize) -> Result<Vec<Argument>, CatalogRowsError> {
        let text = self.optional(column).unwrap_or_default();
        let argument = |part: &str| {
            let (oid, category) = part.split_once(':')?;
            Some(Argument { oid: oid.parse().ok()?, category: *category.as_bytes().first()? })
        };
        text.split(' ')
            .filter(|part| !part.is_empty())
            .map(|part| argument(part).ok_or_else(|| self.wrong(column, "a list of OID:category")))
            .collect()
    }

    fn relation(&self) -> Result<RelationRow, CatalogRowsError> {
        Ok(RelationRow {
            oid: self.oid(0)?,
            schema: self.oid(1)?,
            name: self.text(2)?,
            kind: self.char(3)?,
            unlogged: self.char(4)? == 'u',
            row_type: self.oid(5)?,
            types: self.oids(6)?,
            definition: self.optional(7),
            composite_column: self.bool(8)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Vec<Vec<Vec<Option<String>>>> {
        vec![Vec::new(); CATALOG_QUERIES.len()]
    }

    #[test]
    fn a_missing_result_is_an_error_that_counts() {
        let error = CatalogRows::from_results(Vec::new()).unwrap_err();
        assert_eq!(error, CatalogRowsError::ResultCount { got: 0, expected: CATALOG_QUERIES.len() });
    }

    #[test]
    fn a_value_of_the_wrong_shape_names_query_and_column() {
        let mut results = results();
        results[1].push(vec![Some("x".into()), Some("public".into()), Some("f".into())]);
        let error = CatalogRows::from_results(results).unwrap_err().to_string();
        assert!(error.contains("schemas") && error.contains("column 0") && error.contains("OID"), "{error}");
    }

    #[test]
    fn a_function_row_tells_how_it_can_be_called() {
        let mut results = results();
        let columns = [
            "16400",
            "2200",
            "f",
            "f",
            "sql",
            "v",
            "3",
            "1",
            "f",
            "23",
            "f",
            "23:N 25:S 16390:C",
            "",
            "SELECT 1",
            "1",
            "{23,25,16390}",
            "t",
            "search_path\nApp.Tenant",
        ];
        results[3].push(columns.iter().map(|c| Some(c.to_string())).collect());
        let rows = CatalogRows::from_results(results).unwrap();
        let function = &rows.functions[0];
        assert!(function.as_owner && function.sets == ["search_path", "app.tenant"]);
        let signature = &function.signature;
        assert!(!signature.takes(1) && signature.takes(2) && signature.takes(3) && !signature.takes(4));
        assert!(signature.arguments[2].takes_row() && !signature.arguments[1].takes_row());
    }
}
