//! An upload as it is kept, and what a client asks for.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bulk::Compression;
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;

/// Largest rate cap, in events a second.
pub const RATE_MAX: u64 = 100_000;
/// Characters of a SHA-256 in hex.
const SHA256_CHARS: usize = 64;

/// An upload. Its job, once there is one, is found by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// Its id, `imp_` and a `UUIDv7`.
    pub id: String,
    /// Whose it is; none means it is the operator's, or that of a key for every org.
    pub owner: Option<String>,
    /// The org of lines that name none.
    pub org: Option<String>,
    /// How the content is packed.
    pub compression: Compression,
    /// How many bytes the client will send.
    pub expected_bytes: Option<u64>,
    /// SHA-256 of the content, in lower-case hex.
    pub sha256: Option<String>,
    /// Most events a second.
    pub rate: Option<u32>,
    /// Bytes that are on disk for certain (BK-5).
    pub received_bytes: u64,
    /// Nothing more is sent; the job is made, or about to be.
    pub committed: bool,
    /// Who made it, when.
    pub created: WriteContext,
    /// Who changed it last, when.
    pub updated: WriteContext,
    /// What clients are told of it once its job has ended: jobs are forgotten earlier.
    #[serde(default)]
    pub ended: Option<Value>,
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// The org of lines that name none.
    pub org: Option<String>,
    /// How the content is packed.
    pub compression: Compression,
    /// How many bytes will be sent.
    pub expected_bytes: Option<u64>,
    /// Their SHA-256.
    pub sha256: Option<String>,
    /// Most events a second.
    pub rate: Option<u32>,
}

/// Reads the body of a new import, of which at most `bytes_max` bytes may be sent.
///
/// # Errors
/// When a field does not fit.
pub fn read_import(mut fields: Fields, bytes_max: u64) -> Result<ImportRequest, Problem> {
    let rate = fields.number("rate", 1, RATE_MAX)?;
    let request = ImportRequest {
        org: fields.text("org", SCOPE_CHARS_MAX)?,
        compression: fields.choice("compression", "none, zstd")?.unwrap_or_default(),
        expected_bytes: fields.number("expected_bytes", 0, bytes_max)?,
        sha256: sha256(&mut fields)?,
        rate: rate.and_then(|rate| u32::try_from(rate).ok()),
    };
    fields.finish()?;
    Ok(request)
}

/// Reads the body of a commit: the hash of the content, if the client names one.
///
/// # Errors
/// When a field does not fit.
pub fn read_commit(mut fields: Fields) -> Result<Option<String>, Problem> {
    let sha256 = sha256(&mut fields)?;
    fields.finish()?;
    Ok(sha256)
}

fn sha256(fields: &mut Fields) -> Result<Option<String>, Problem> {
    let Some(text) = fields.text("sha256", SHA256_CHARS)? else { return Ok(None) };
    if text.len() != SHA256_CHARS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::field("sha256", format!("{SHA256_CHARS} hex digits"), text));
    }
    Ok(Some(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    #[test]
    fn an_import_is_read_and_what_does_not_fit_is_refused_by_its_name() {
        let sum = "AB".repeat(32);
        let text = format!(r#"{{"org":"acme","compression":"zstd","expected_bytes":9,"sha256":"{sum}","rate":7}}"#);
        let request = read_import(fields(&text), 10).expect("is taken");
        assert_eq!((request.compression, request.rate), (Compression::Zstd, Some(7)));
        assert_eq!(request.sha256, Some(sum.to_lowercase()));
        assert_eq!(read_import(fields("{}"), 10), Ok(ImportRequest::default()));
        for (field, text) in [
            ("org", r#"{"org":"\n"}"#),
            ("compression", r#"{"compression":"lz4"}"#),
            ("expected_bytes", r#"{"expected_bytes":11}"#),
            ("sha256", r#"{"sha256":"abc"}"#),
            ("rate", r#"{"rate":0}"#),
            ("file", r#"{"file":"/etc/passwd"}"#),
        ] {
            assert_eq!(read_import(fields(text), 10).expect_err(text).field.as_deref(), Some(field));
        }
        let odd = format!(r#"{{"sha256":"{}"}}"#, "zz".repeat(32));
        assert_eq!(read_commit(fields(&odd)).expect_err("refused").field.as_deref(), Some("sha256"));
        assert_eq!(read_commit(fields("{}")), Ok(None));
    }
}
