//! The keywords that the classifier acts on. Any other word, keyword of PostgreSQL's or not, is just a name.

macro_rules! keywords {
    ($($name:ident $text:literal)*) => {
        /// A keyword that the classifier acts on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Keyword { None, $($name,)* }

        /// The keyword of a word of up to eight letters, lower-cased and packed.
        fn short(packed: u64) -> Keyword {
            $(if $text.len() <= 8 && packed == const { pack($text) } { return Keyword::$name; })*
            Keyword::None
        }

        /// The keyword of a longer word, lower-cased.
        fn long(word: &[u8]) -> Keyword {
            match word { $($text if $text.len() > 8 => Keyword::$name,)* _ => Keyword::None }
        }

        #[cfg(test)]
        const ALL: &[(&[u8], Keyword)] = &[$(($text, Keyword::$name),)*];
    };
}

keywords! {
    Abort b"abort" All b"all" Alter b"alter" Analyse b"analyse" Analyze b"analyze" And b"and" Any b"any" Array b"array"
    As b"as" Asc b"asc" At b"at" Atomic b"atomic" Begin b"begin" Between b"between" Binary b"binary" By b"by" Call b"call" Case b"case"
    Cast b"cast" Chain b"chain" Characteristics b"characteristics" Checkpoint b"checkpoint" Close b"close"
    Cluster b"cluster" Coalesce b"coalesce" Collate b"collate" Column b"column" Comment b"comment" Commit b"commit"
    Committed b"committed" Constraints b"constraints" Copy b"copy" Create b"create" Cross b"cross" Cube b"cube" Current b"current"
    Deallocate b"deallocate" Declare b"declare" Default b"default" Deferrable b"deferrable" Delete b"delete" Desc b"desc" Discard b"discard"
    Distinct b"distinct" Do b"do" Drop b"drop" Else b"else" End b"end" Escape b"escape" Except b"except" Exclude b"exclude" Execute b"execute"
    Exists b"exists" Explain b"explain" Extract b"extract" False b"false" Fetch b"fetch" Filter b"filter" First b"first" Following b"following" For b"for"
    From b"from" Full b"full" Global b"global" Grant b"grant" Greatest b"greatest" Group b"group" Grouping b"grouping" Having b"having" Hold b"hold"
    Ilike b"ilike" Import b"import" In b"in" Inner b"inner" Insert b"insert" Intersect b"intersect" Interval b"interval" Into b"into" Is b"is"
    Isnull b"isnull" Isolation b"isolation" Join b"join" Key b"key" Lateral b"lateral" Least b"least" Left b"left" Level b"level" Like b"like"
    Limit b"limit" Listen b"listen" Load b"load" Local b"local" Lock b"lock" Loop b"loop" Materialized b"materialized"
    Merge b"merge" Move b"move" Names b"names" Natural b"natural" No b"no" Not b"not" Notify b"notify" Notnull b"notnull" Null b"null"
    Nullif b"nullif" Nulls b"nulls" Of b"of" Off b"off" Offset b"offset" On b"on" Only b"only" Operator b"operator" Or b"or" Order b"order"
    Ordinality b"ordinality" Outer b"outer" Over b"over" Overlay b"overlay" Partition b"partition" Position b"position" Preceding b"preceding" Prepare b"prepare"
    Prepared b"prepared" Program b"program" Range b"range" Read b"read" Reassign b"reassign" Recursive b"recursive" Refresh b"refresh"
    Reindex b"reindex" Release b"release" Repeatable b"repeatable" Replace b"replace" Reset b"reset" Return b"return" Returning b"returning"
    Revoke b"revoke" Right b"right" Role b"role" Rollback b"rollback" Rollup b"rollup" Row b"row" Rows b"rows" Savepoint b"savepoint" Security b"security"
    Select b"select" Serializable b"serializable" Session b"session" Set b"set" Sets b"sets" Share b"share" Show b"show" Similar b"similar" Some b"some"
    Start b"start" Stdin b"stdin" Stdout b"stdout" Substring b"substring" Symmetric b"symmetric" Table b"table" Tablesample b"tablesample" Temp b"temp"
    Temporary b"temporary" Then b"then" Time b"time" To b"to" Transaction b"transaction" Treat b"treat" Trim b"trim" True b"true" Truncate b"truncate"
    Unbounded b"unbounded" Uncommitted b"uncommitted" Union b"union" Unlisten b"unlisten" Unlogged b"unlogged" Update b"update" Using b"using"
    Vacuum b"vacuum" Values b"values" Verbose b"verbose" When b"when" Where b"where" Window b"window" With b"with" Within b"within" Work b"work" Write b"write"
    Zone b"zone"
    XmlElement b"xmlelement" XmlForest b"xmlforest" XmlConcat b"xmlconcat" XmlParse b"xmlparse" XmlExists b"xmlexists" XmlTable b"xmltable"
    XmlSerialize b"xmlserialize" XmlRoot b"xmlroot" XmlPi b"xmlpi" XmlAttributes b"xmlattributes"
}

const LONGEST: usize = 16;

/// The first eight bytes of a word as a number, zeroes behind a shorter one.
const fn pack(word: &[u8]) -> u64 {
    let mut packed = 0;
    let mut at = 0;
    while at < word.len() && at < 8 {
        packed |= (word[at] as u64) << (8 * at);
        at += 1;
    }
    packed
}

/// The keyword that an unquoted word spells, in any case. `first` is its first eight bytes as a number,
/// lower-cased ([`super::name::first_bytes`]).
pub fn keyword(word: &[u8], first: u64) -> Keyword {
    match word.len() {
        0..=8 => short(first),
        9..=LONGEST => {
            let mut lower = [0; LONGEST];
            lower[..word.len()].copy_from_slice(word);
            lower.make_ascii_lowercase();
            long(&lower[..word.len()])
        }
        _ => Keyword::None,
    }
}

impl Keyword {
    /// Does a parenthesis after this keyword never hold a function's arguments?
    pub fn opens_no_call(self) -> bool {
        use Keyword::*;
        matches!(
            self,
            All | And
                | Any
                | Array
                | As
                | Between
                | By
                | Case
                | Distinct
                | Else
                | Except
                | Exists
                | From
                | Having
                | In
                | Intersect
                | Limit
                | Not
                | Offset
                | On
                | Or
                | Select
                | Some
                | Then
                | Union
                | Using
                | Values
                | When
                | Where
        )
    }

    /// Is it reserved, so that it can't be the name of a relation or alias? (Documentation, appendix C.)
    pub fn is_reserved(self) -> bool {
        use Keyword::*;
        matches!(
            self,
            All | Analyse
                | Analyze
                | And
                | Any
                | Array
                | As
                | Asc
                | Binary
                | Case
                | Cast
                | Collate
                | Column
                | Create
                | Cross
                | Default
                | Deferrable
                | Desc
                | Distinct
                | Do
                | Else
                | End
                | Except
                | False
                | Fetch
                | For
                | From
                | Full
                | Grant
                | Group
                | Having
                | Ilike
                | In
                | Inner
                | Intersect
                | Into
                | Is
                | Isnull
                | Join
                | Lateral
                | Left
                | Like
                | Limit
                | Natural
                | Not
                | Notnull
                | Null
                | Offset
                | On
                | Only
                | Or
                | Order
                | Outer
                | Returning
                | Right
                | Select
                | Similar
                | Some
                | Symmetric
                | Table
                | Tablesample
                | Then
                | To
                | True
                | Union
                | Using
                | Verbose
                | When
                | Where
                | Window
                | With
        )
    }

    /// May a name after this keyword be a relation? One that is written to runs code as one does that is read: the
    /// condition of a view (`WITH CHECK OPTION`), casts to its columns' types, and what compares their values.
    pub fn precedes_relation(self) -> bool {
        use Keyword::*;
        matches!(self, From | Join | Only | Table | Copy | Using | Into | Update)
    }

    /// Does this keyword stand for operators that it does not spell (`LIKE` for `~~`, `IN` for `=`)?
    pub fn implies_operator(self) -> bool {
        use Keyword::*;
        matches!(self, Between | Case | Distinct | Ilike | In | Like | Natural | Nullif | Similar | Using)
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::first_bytes;
    use super::*;

    fn spelled(word: &[u8]) -> Keyword {
        keyword(word, first_bytes(word))
    }

    #[test]
    fn keywords_are_found_in_any_case() {
        for (text, expected) in ALL {
            assert!(text.len() <= LONGEST);
            assert_eq!(spelled(text), *expected);
            assert_eq!(spelled(&text.to_ascii_uppercase()), *expected);
        }
        assert_eq!(spelled(b"selects"), Keyword::None);
        assert_eq!(spelled(b"nextval"), Keyword::None);
    }
}
