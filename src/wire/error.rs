//! The errors that pgweir itself sends: an SQLSTATE of PostgreSQL's own, what happened with the
//! value and limit involved, and a hint that says what to do.

use std::borrow::Cow;

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::ErrorResponse;

/// PostgreSQL, "Message Severity Levels".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the connection goes on.
    Error,
    /// The connection is closed after this.
    Fatal,
}

/// An error of our own, ready to become an `ErrorResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgError {
    pub severity: Severity,
    /// Five characters (PostgreSQL, appendix "PostgreSQL Error Codes").
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub hint: Option<Cow<'static, str>>,
    /// The function in PostgreSQL's source by which some drivers know an error.
    pub routine: Option<&'static str>,
}

impl PgError {
    pub fn error(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            severity: Severity::Error,
            code: code.into(),
            message: message.into(),
            detail: None,
            hint: None,
            routine: None,
        }
    }

    pub fn fatal(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn routine(mut self, routine: &'static str) -> Self {
        self.routine = Some(routine);
        self
    }

    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends the `ErrorResponse` (PostgreSQL, "Error and Notice Message Fields").
    pub fn encode(&self, out: &mut BytesMut) {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.code.to_string()),
            (b'M', clean(&self.message)),
        ];
        fields.extend(self.detail.as_deref().map(|detail| (b'D', clean(detail))));
        fields.extend(self.hint.as_deref().map(|hint| (b'H', clean(hint))));
        fields.extend(self.routine.map(|routine| (b'R', routine.to_owned())));
        // The only failure is a message over 2 GiB, and every text here is short.
        let _ = ErrorResponse::new(fields).encode(out);
    }
}

impl std::fmt::Display for PgError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PgError {}

/// A NUL inside a field would end it and shift all that follow.
fn clean(text: &str) -> String {
    text.replace('\0', " ")
}
