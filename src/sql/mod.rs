//! TEMPORARY: stands in for the classifier until its branch is merged.
pub mod verdict;
pub use verdict::*;
#[derive(Debug)]
pub struct Catalog(u64);
impl Catalog {
    pub fn unloaded() -> Self {
        Self(0)
    }
    pub fn generation(&self) -> u64 {
        self.0
    }
    pub fn build(generation: u64, _: CatalogRows) -> Self {
        Self(generation)
    }
}
pub struct CatalogRows;
impl CatalogRows {
    pub fn from_results(_: Vec<Vec<Vec<Option<String>>>>) -> Result<Self, String> {
        Ok(Self)
    }
}
pub const CATALOG_QUERIES: &[(&str, &str)] = &[];
pub const CATALOG_STAMP_QUERY: &str = "SELECT 1";
pub struct Classifier;
impl Classifier {
    pub fn new(_: usize) -> Self {
        Self
    }
    pub fn classify(&self, sql: &[u8], _: &Catalog, _: Option<&str>) -> Verdict {
        let text = String::from_utf8_lossy(sql).to_lowercase();
        let word = text.split(|c: char| !c.is_alphanumeric()).find(|w| !w.is_empty()).unwrap_or("").to_owned();
        let mut v = Verdict {
            class: Class::Primary,
            reason: Reason::Write,
            hint: None,
            tx: TxControl::None,
            effects: Effects::NONE,
        };
        match &word[..] {
            "select" if !text.contains("set_config") && !text.contains("advisory") => {
                v.class = Class::Read;
                v.reason = Reason::Read
            }
            "select" | "set" | "reset" | "discard" | "listen" | "prepare" | "deallocate" | "do" => {
                v.effects = Effects::STATE
            }
            "create" | "alter" | "drop" => v.effects = Effects::STATE | Effects::DDL,
            "begin" | "start" => v.tx = TxControl::Begin,
            "commit" | "end" | "rollback" => v.tx = TxControl::End,
            _ => {}
        }
        v
    }
}
#[derive(Default)]
pub struct SettingNames {
    pub names: Vec<String>,
    pub unknown: bool,
}
pub fn setting_names(_: &[u8]) -> SettingNames {
    SettingNames::default()
}
