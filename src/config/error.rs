//! What is wrong with a configuration, all of it at once, and where it stands.

use std::fmt;

/// One mistake (or, in [`super::Config::warnings`], one remark).
///
/// Shown as `pgweir.toml:12:8: pool.size: expected …, found …`. Line and column count from 1; both
/// are missing for what comes from the environment or concerns the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named to us, or `environment`.
    pub source: String,
    /// Line and column.
    pub position: Option<(usize, usize)>,
    /// The dotted path of the key, such as `clusters.main.replicas[1]`; empty for a syntax error.
    pub key: String,
    /// What was expected and what was found. Never holds a secret.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every mistake of a configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ConfigError> {
        self.0.iter()
    }
}

/// One error per line, without a line feed at the end.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
