//! `tidegate sources`: where third parties post their webhooks to.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};
use crate::source::record::KINDS;
use crate::source::verify::Algorithm;

/// Commands about sources.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a source: its address takes the webhooks of one provider and turns them into events
    Create {
        /// Its name, unique in the hub; left out, one is made
        #[arg(long)]
        name: Option<String>,
        /// Tenant of its events; without this the mapping says
        #[arg(long)]
        org: Option<String>,
        #[command(flatten)]
        fields: Fields,
    },
    /// List sources, by name
    List {
        /// Those of this tenant
        #[arg(long)]
        org: Option<String>,
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Sources of one answer
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one source, without its secrets
    Show {
        /// The source's name
        name: String,
    },
    /// Change what is named, keep the rest
    Update {
        /// The source's name
        name: String,
        #[command(flatten)]
        fields: Fields,
        /// Take the second secret away: the rotation is over
        #[arg(long, conflicts_with = "second_secret_file")]
        no_second_secret: bool,
    },
    /// Delete a source: its address is unknown from then on, its events stay
    Delete {
        /// The source's name
        name: String,
    },
}

/// What can be said of a source.
#[derive(Debug, Default, clap::Args)]
pub struct Fields {
    /// How requests are verified
    #[arg(long, value_name = "KIND", value_parser = KINDS)]
    verification: Option<String>,
    /// The header of the signature (hmac)
    #[arg(long, value_name = "NAME", requires = "verification")]
    header: Option<String>,
    /// The hash (hmac)
    #[arg(long, requires = "verification", value_parser = Algorithm::NAMES)]
    algorithm: Option<String>,
    /// How the signature is written (hmac)
    #[arg(long, requires = "verification", value_parser = ["hex", "base64"])]
    encoding: Option<String>,
    /// What stands before the signature, such as `sha256=` (hmac)
    #[arg(long, value_name = "TEXT", requires = "verification")]
    prefix: Option<String>,
    /// The user (basic)
    #[arg(long, requires = "verification")]
    username: Option<String>,
    /// How far a signed time may be off, in seconds (stripe, slack)
    #[arg(long, value_name = "SECONDS", requires = "verification")]
    tolerance_s: Option<u64>,
    /// A file with the secret, alone in its first line; `-` reads it from stdin. Never an argument: those are seen by others
    #[arg(long, value_name = "FILE", value_parser = secret)]
    secret_file: Option<Hidden>,
    /// A file with a second secret, valid beside the first while that is rotated
    #[arg(long, value_name = "FILE", value_parser = secret)]
    second_secret_file: Option<Hidden>,
    /// What requests become: a JSON object with rules for type, id, org, subject, occurred_at, data
    #[arg(long, value_name = "JSON", value_parser = object)]
    mapping: Option<Map<String, Value>>,
    /// For people
    #[arg(long)]
    description: Option<String>,
}

/// A secret as it was read; it is not printed.
#[derive(Clone)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

fn secret(path: &str) -> Result<Hidden, String> {
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        path => std::fs::read_to_string(Path::new(path)),
    };
    let text = text.map_err(|error| format!("{path}: {error}"))?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(Hidden(line.to_owned())),
        None => Err(format!("{path}: holds no secret")),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

impl Fields {
    /// The document to send: what was named and nothing else.
    fn document(self) -> Map<String, Value> {
        let mut document = Map::new();
        if let Some(kind) = self.verification {
            let mut verification = json!({"kind": kind});
            let texts = [
                ("header", self.header),
                ("algorithm", self.algorithm),
                ("encoding", self.encoding),
                ("prefix", self.prefix),
                ("username", self.username),
            ];
            for (name, text) in texts {
                if let Some(text) = text {
                    verification[name] = text.into();
                }
            }
            if let Some(seconds) = self.tolerance_s {
                verification["tolerance_s"] = seconds.into();
            }
            document.insert("verification".to_owned(), verification);
        }
        let hidden = |secret: Option<Hidden>| secret.map(|Hidden(text)| Value::from(text));
        let members = [
            ("secret", hidden(self.secret_file)),
            ("second_secret", hidden(self.second_secret_file)),
            ("mapping", self.mapping.map(Value::from)),
            ("description", self.description.map(Value::from)),
        ];
        document.extend(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        document
    }
}

const COLUMNS: &[Column] = &[
    ("NAME", "/name"),
    ("KIND", "/verification/kind"),
    ("ORG", "/org"),
    ("PATH", "/path"),
    ("SECRET", "/secret_last4"),
    ("SECOND", "/second_secret_last4"),
    ("CREATED", "/created_at"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let none = Query::none();
    let path = |name: &str| format!("/v1/sources/{}", segment(name));
    let (method, path, body) = match command {
        Command::List { org, cursor, limit } => {
            let query = Query::none().with("org", org).with("cursor", cursor).with("limit", Some(limit));
            let answer = client.call(Method::GET, "/v1/sources", &query, Body::None).await?;
            return output.list(&answer, "items", COLUMNS);
        }
        Command::Delete { name } => {
            output.thing(&client.call(Method::DELETE, &path(&name), &none, Body::None).await?)?;
            return output.say("deleted");
        }
        Command::Create { name, org, fields } => {
            let mut document = fields.document();
            let named = [("name", name), ("org", org)];
            document.extend(named.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
            (Method::POST, "/v1/sources".to_owned(), Body::from(&Value::Object(document)))
        }
        Command::Update { name, fields, no_second_secret } => {
            let mut document = fields.document();
            if no_second_secret {
                document.insert("second_secret".to_owned(), Value::Null);
            }
            (Method::PATCH, path(&name), Body::from(&Value::Object(document)))
        }
        Command::Show { name } => (Method::GET, path(&name), Body::None),
    };
    output.thing(&client.call(method, &path, &none, body).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_what_was_named() {
        assert_eq!(Value::Object(Fields::default().document()), json!({}));
        let fields = Fields {
            verification: Some("hmac".to_owned()),
            header: Some("x-signature".to_owned()),
            algorithm: Some("sha1".to_owned()),
            secret_file: Some(Hidden("s3cret".to_owned())),
            mapping: json!({"type": {"constant": "a.b"}}).as_object().cloned(),
            ..Fields::default()
        };
        assert!(!format!("{fields:?}").contains("s3cret"));
        assert_eq!(
            Value::Object(fields.document()),
            json!({
                "verification": {"kind": "hmac", "header": "x-signature", "algorithm": "sha1"},
                "secret": "s3cret",
                "mapping": {"type": {"constant": "a.b"}},
            })
        );
    }

    #[test]
    fn a_secret_is_the_first_line_of_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let path = path.to_str().expect("text");
        std::fs::write(path, "  whsec_abc \nmore\n").expect("writes");
        assert_eq!(secret(path).expect("reads").0, "whsec_abc");
        std::fs::write(path, "\n").expect("writes");
        assert!(secret(path).is_err());
        assert!(secret("/no/such/file").is_err());
    }
}
