//! The questions asked of a database. All are plain `SELECT`s over `pg_catalog` in PostgreSQL 12 to 18, need no
//! privilege, and name functions and relations with their schema, whatever the `search_path`.
//!
//! Text that the server deparses (views, policies, domains) qualifies the names that are not visible in the
//! asking connection's `search_path`, which is therefore among the answers.

/// The relations about which there is something to say, of those on which a condition holds: views and their
/// definitions, sequences, foreign and unlogged tables, and those with columns of the database's own types.
macro_rules! relations {
    ($condition:literal) => {
        concat!(
            "\
SELECT * FROM (
  SELECT c.oid, c.relnamespace, c.relname, c.relkind, c.relpersistence, c.reltype,
    (SELECT pg_catalog.string_agg(DISTINCT a.atttypid::pg_catalog.text, ' ') FROM pg_catalog.pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384) AS types,
    CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END,
    EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
         AND (t.typcategory = 'C' OR (t.typcategory = 'A' AND (t.typtype = 'd'
           OR EXISTS (SELECT 1 FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typcategory = 'C')))))
  FROM pg_catalog.pg_class c
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND c.relnamespace <> 99 AND ",
            $condition,
            ") AS r
WHERE r.relkind IN ('v', 'S', 'f') OR r.relpersistence = 'u' OR r.types IS NOT NULL
  OR r.oid IN (SELECT p.polrelid FROM pg_catalog.pg_policy p)
  OR r.oid IN (SELECT i.inhparent FROM pg_catalog.pg_inherits i)
  OR r.oid IN (SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
  OR r.oid IN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.contype = 'c')
  OR r.oid IN (SELECT s.stxrelid FROM pg_catalog.pg_statistic_ext s)"
        )
    };
}

/// The query for what came with PostgreSQL, which takes longest (the server deparses all its own views) and whose answer
/// stays the same for as long as the server runs.
pub const SYSTEM_RELATIONS: &str = "system_relations";

/// Name and text of each query, in the order that [`super::CatalogRows::from_results`] expects.
pub const CATALOG_QUERIES: &[(&str, &str)] = &[
    ("context", CONTEXT),
    ("schemas", SCHEMAS),
    ("builtins", BUILTINS),
    ("functions", FUNCTIONS),
    ("aggregates", AGGREGATES),
    ("types", TYPES),
    (SYSTEM_RELATIONS, relations!("c.oid < 16384")),
    ("relations", relations!("c.oid >= 16384")),
    ("policies", POLICIES),
    ("parents", PARENTS),
    ("operators", OPERATORS),
    ("casts", CASTS),
    ("operator_classes", OPERATOR_CLASSES),
    ("planned", PLANNED),
    ("builtin_parts", BUILTIN_PARTS),
    ("implied", IMPLIED),
];

/// Version, `search_path`, those that sessions of some role or of this database have by default, a line each, and whether a
/// write could notify without saying so: by a trigger, where any function notifies, or by a rule; and whether there is code
/// that may catch its own cancellation, or make settings of timeouts.
const CONTEXT: &str = "\
SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('search_path'),
  (SELECT pg_catalog.string_agg(pg_catalog.substr(c.setting, 13), E'\\n')
     FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) AS c(setting)
     WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
       AND c.setting ~ '^search_path='),
  EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_type <> '1' AND r.oid >= 16384)
  OR (EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal)
    AND EXISTS (SELECT 1 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
      WHERE p.oid >= 16384 AND (p.prosrc ~* '^$|notify|execute' OR l.lanname NOT IN ('sql', 'plpgsql', 'c', 'internal')))),
  EXISTS (SELECT 1 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND (p.prosrc ~* 'query_canceled|operator_intervention|570(00|14)'
      OR l.lanname NOT IN ('sql', 'plpgsql', 'c', 'internal'))),
  EXISTS (SELECT 1 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND (p.prosrc ~* '^$|_timeout|set_config|pg_settings|execute'
      OR l.lanname NOT IN ('sql', 'plpgsql', 'c', 'internal')))";

const SCHEMAS: &str = "\
SELECT n.oid, n.nspname, EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = n.nspname)
FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_(toast|temp)'";

/// Name, whether any overload is volatile, whether any is stable, whether any returns a row.
const BUILTINS: &str = "\
SELECT p.proname, pg_catalog.bool_or(p.provolatile = 'v'), pg_catalog.bool_or(p.provolatile = 's'),
  pg_catalog.bool_or(t.typtype = 'c' OR t.oid = 2249)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_type t ON t.oid = p.prorettype
WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND (p.provolatile <> 'i' OR t.typtype = 'c' OR t.oid = 2249)
GROUP BY p.proname";

/// Functions of other schemas, and the built-ins whose names they share. A body is the source text, or for
/// SQL-standard bodies (PostgreSQL 14) the definition; defaults are evaluated by the caller's statement.
/// Trigger functions cannot be called, but those of the database's own run. At the end, whether it is `SECURITY DEFINER`,
/// and the names of the settings that it has of its own, a line each.
const FUNCTIONS: &str = "\
SELECT p.oid, p.pronamespace, p.proname, p.prokind, l.lanname, p.provolatile, p.pronargs, p.pronargdefaults,
  p.provariadic <> 0, p.prorettype, rt.oid = 2249 OR rt.typcategory = 'C' OR (rt.typcategory = 'A'
    AND (rt.typtype = 'd' OR EXISTS (SELECT 1 FROM pg_catalog.pg_type e WHERE e.oid = rt.typelem AND e.typcategory = 'C'))),
  (SELECT pg_catalog.string_agg(pg_catalog.concat(t.oid, ':', t.typcategory), ' ' ORDER BY a.at)
     FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS a(type, at) JOIN pg_catalog.pg_type t ON t.oid = a.type),
  (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
     WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
       AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass LIMIT 1),
  CASE WHEN l.lanname IN ('sql', 'plpgsql') AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
    THEN CASE WHEN p.prosrc = '' AND p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END END,
  pg_catalog.pg_get_expr(p.proargdefaults, 0), p.proallargtypes::pg_catalog.text, p.prosecdef,
  (SELECT pg_catalog.string_agg(pg_catalog.split_part(s.setting, '=', 1), E'\\n') FROM pg_catalog.unnest(p.proconfig) AS s(setting))
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  JOIN pg_catalog.pg_type rt ON rt.oid = p.prorettype
WHERE (p.prorettype NOT IN (2279, 3838) OR p.oid >= 16384) AND (p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
  OR p.oid >= 16384
  OR p.proname IN (SELECT o.proname FROM pg_catalog.pg_proc o WHERE o.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace))";

/// An aggregate and the functions that it is made of.
const AGGREGATES: &str = "\
SELECT a.aggfnoid::pg_catalog.oid, pg_catalog.concat_ws(' ', a.aggtransfn::pg_catalog.oid, a.aggfinalfn::pg_catalog.oid,
  a.aggcombinefn::pg_catalog.oid, a.aggserialfn::pg_catalog.oid, a.aggdeserialfn::pg_catalog.oid, a.aggmtransfn::pg_catalog.oid,
  a.aggminvtransfn::pg_catalog.oid, a.aggmfinalfn::pg_catalog.oid)
FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid::pg_catalog.oid >= 16384";

/// Types of the database's own except the row types of relations and their arrays: name, what they are made
/// of, and the checks of domains.
const TYPES: &str = "\
SELECT t.oid, t.typnamespace, t.typname, t.typtype, t.typcategory,
  pg_catalog.concat_ws(' ', t.typbasetype, t.typelem,
    (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid),
    (SELECT pg_catalog.string_agg(a.atttypid::pg_catalog.text, ' ') FROM pg_catalog.pg_attribute a
       WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)),
  (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(c.oid), ' ') FROM pg_catalog.pg_constraint c
     WHERE c.contypid = t.oid),
  NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type o WHERE o.typname = t.typname AND o.typtype <> 'e')
FROM pg_catalog.pg_type t
WHERE t.oid >= 16384
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type e JOIN pg_catalog.pg_class c ON c.oid = e.typrelid
     WHERE e.oid = t.typelem AND e.typarray = t.oid AND c.relkind <> 'c')";

/// What a row security policy evaluates when rows are read.
const POLICIES: &str = "\
SELECT p.polrelid, pg_catalog.pg_get_expr(p.polqual, p.polrelid) FROM pg_catalog.pg_policy p
WHERE p.polqual IS NOT NULL AND p.polcmd IN ('r', '*')";

/// Tables that are read when one of their ancestors is, and can't be on a standby: ancestor and reason.
const PARENTS: &str = "\
WITH RECURSIVE up(oid) AS (
  SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  WHERE c.relkind = 'f' OR (c.relkind = 'r' AND c.relpersistence = 'u')
  UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
SELECT up.oid FROM up JOIN pg_catalog.pg_class c ON c.oid = up.oid WHERE c.relkind IN ('r', 'p', 'f')";

/// Operators of the database's own and their functions, also those of their negators and commutators, by which
/// the planner may replace them.
const OPERATORS: &str = "\
SELECT o.oprnamespace, o.oprname, f.oprcode::pg_catalog.oid
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_operator f ON f.oid IN (o.oid, o.oprnegate, o.oprcom)
WHERE f.oid >= 16384 AND f.oprcode <> 0";

/// Casts of the database's own: source, target, function, context (`i` is unasked).
const CASTS: &str = "\
SELECT c.castsource, c.casttarget, c.castfunc, c.castcontext FROM pg_catalog.pg_cast c WHERE c.oid >= 16384";

/// Functions that sorting, grouping, comparing and indexes call for a type, though nobody names them.
const OPERATOR_CLASSES: &str = "\
SELECT p.amproclefttype, p.amproc::pg_catalog.oid FROM pg_catalog.pg_amproc p
WHERE p.amproc::pg_catalog.oid >= 16384
UNION SELECT p.amoplefttype, o.oprcode::pg_catalog.oid FROM pg_catalog.pg_amop p JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
WHERE o.oprcode::pg_catalog.oid >= 16384";

/// What the planner evaluates when it plans a query over a relation (expressions and conditions of indexes, checks,
/// expressions of statistics): the relation, its ancestors, and a function of the database's own.
const PLANNED: &str = "\
WITH RECURSIVE evaluated(relation, class, object) AS (
  SELECT i.indrelid, 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, i.indexrelid FROM pg_catalog.pg_index i
    WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL SELECT c.conrelid, 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, c.oid
    FROM pg_catalog.pg_constraint c WHERE c.contype = 'c' AND c.conrelid <> 0
  UNION ALL SELECT s.stxrelid, 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass::pg_catalog.oid, s.oid
    FROM pg_catalog.pg_statistic_ext s),
called(relation, function) AS (
  SELECT e.relation, CASE WHEN o.oid IS NULL THEN d.refobjid ELSE o.oprcode::pg_catalog.oid END
  FROM evaluated e JOIN pg_catalog.pg_depend d ON d.classid = e.class AND d.objid = e.object AND d.refobjid >= 16384
    LEFT JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
  WHERE o.oid IS NOT NULL OR d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
  UNION SELECT i.inhparent, called.function FROM called JOIN pg_catalog.pg_inherits i ON i.inhrelid = called.relation)
SELECT DISTINCT relation, function FROM called";

/// Built-ins of which the database's own aggregates, operators and casts are made.
const BUILTIN_PARTS: &str = "\
SELECT p.oid, p.proname FROM pg_catalog.pg_proc p WHERE p.oid < 16384 AND p.oid IN (
  SELECT u.part FROM pg_catalog.pg_aggregate a, LATERAL pg_catalog.unnest(ARRAY[a.aggtransfn::pg_catalog.oid,
    a.aggfinalfn::pg_catalog.oid, a.aggcombinefn::pg_catalog.oid, a.aggserialfn::pg_catalog.oid, a.aggdeserialfn::pg_catalog.oid,
    a.aggmtransfn::pg_catalog.oid, a.aggminvtransfn::pg_catalog.oid, a.aggmfinalfn::pg_catalog.oid]) AS u(part)
    WHERE a.aggfnoid::pg_catalog.oid >= 16384
  UNION SELECT o.oprcode::pg_catalog.oid FROM pg_catalog.pg_operator o WHERE o.oid >= 16384
  UNION SELECT c.castfunc FROM pg_catalog.pg_cast c WHERE c.oid >= 16384)";

/// Functions that a write may run without naming them: those of triggers, and what defaults, checks, rules, policies,
/// expressions of indexes and conditions of triggers call, by the trees of their expressions. With the name, if it is a
/// built-in, and whether it is the trigger of an event, which only a change of the schema is. Temporary tables are their
/// sessions' own business.
const IMPLIED: &str = "\
WITH lasting AS (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relpersistence <> 't' AND c.oid >= 16384),
code(tree) AS (
  SELECT d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d WHERE d.adrelid IN (SELECT oid FROM lasting)
  UNION ALL SELECT c.conbin::pg_catalog.text FROM pg_catalog.pg_constraint c
    WHERE c.contype = 'c' AND c.oid >= 16384 AND (c.conrelid = 0 OR c.conrelid IN (SELECT oid FROM lasting))
  UNION ALL SELECT pg_catalog.concat(r.ev_action, r.ev_qual) FROM pg_catalog.pg_rewrite r
    WHERE r.ev_type <> '1' AND r.oid >= 16384
  UNION ALL SELECT pg_catalog.concat(p.polqual, p.polwithcheck) FROM pg_catalog.pg_policy p
  UNION ALL SELECT pg_catalog.concat(i.indexprs, i.indpred) FROM pg_catalog.pg_index i
    WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND i.indrelid IN (SELECT oid FROM lasting)
  UNION ALL SELECT t.tgqual::pg_catalog.text FROM pg_catalog.pg_trigger t WHERE t.tgqual IS NOT NULL),
called(oid, by_ddl) AS (
  SELECT DISTINCT m.found[1]::pg_catalog.oid, false FROM code,
    LATERAL pg_catalog.regexp_matches(code.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS m(found)
  UNION SELECT t.tgfoid, false FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN (SELECT oid FROM lasting)
  UNION SELECT e.evtfoid, true FROM pg_catalog.pg_event_trigger e)
SELECT p.oid, CASE WHEN p.oid < 16384 THEN p.proname END, called.by_ddl
FROM called JOIN pg_catalog.pg_proc p ON p.oid = called.oid";

/// One value that changes whenever an answer to [`CATALOG_QUERIES`] may have: over the rows that users made,
/// how many there are, the newest, and the sum of their `xmin`. Reads a few catalogs by their OID indexes.
/// Temporary tables come and go without changing it.
pub const CATALOG_STAMP_QUERY: &str = "\
SELECT pg_catalog.concat_ws(' ',
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(oid::pg_catalog.int8), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_proc WHERE oid >= 16384),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(oid::pg_catalog.int8), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_class WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(r.oid::pg_catalog.int8), pg_catalog.sum(r.xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_rewrite r WHERE r.oid >= 16384),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(t.oid::pg_catalog.int8), pg_catalog.sum(t.xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND c.relpersistence <> 't'),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(d.oid::pg_catalog.int8), pg_catalog.sum(d.xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_class c ON c.oid = d.adrelid WHERE c.relpersistence <> 't'),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_event_trigger),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(t.oid::pg_catalog.int8), pg_catalog.sum(t.xmin::pg_catalog.text::pg_catalog.int8))
     FROM pg_catalog.pg_type t WHERE t.oid >= 16384 AND t.typtype <> 'c' AND t.typelem = 0),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_operator WHERE oid >= 16384),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_cast WHERE oid >= 16384),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_policy),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_constraint WHERE contype = 'c'),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_index
     WHERE indexprs IS NOT NULL OR indpred IS NOT NULL),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_statistic_ext),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_inherits),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_namespace
     WHERE nspname !~ '^pg_(toast|temp)'),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.sum(xmin::pg_catalog.text::pg_catalog.int8)) FROM pg_catalog.pg_db_role_setting),
  (SELECT pg_catalog.concat_ws(',', pg_catalog.count(*), pg_catalog.max(oid::pg_catalog.int8)) FROM pg_catalog.pg_roles))";
