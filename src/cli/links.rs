//! `tidegate links`: which entity of one module belongs to which of another.

use serde_json::{Map, Value};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// The types of links.
const TYPES: [&str; 3] = ["reference", "cascade", "aggregate_root"];

/// Commands about links.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List links: those that go out from one entity, those that lead to one, those of a pair, or all
    List {
        /// Tenant
        #[arg(long)]
        org: Option<String>,
        /// That go out from here
        #[arg(long, value_name = "MODULE/TYPE/ID", value_parser = entity)]
        from: Option<Entity>,
        /// That lead here
        #[arg(long, value_name = "MODULE/TYPE/ID", value_parser = entity)]
        to: Option<Entity>,
        /// Of this type
        #[arg(long = "type", value_name = "TYPE", value_parser = TYPES)]
        link_type: Option<String>,
        /// Of a pair, those of the other direction too
        #[arg(long)]
        both_ways: bool,
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Links of one answer
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one link
    Show {
        /// The link's id
        id: String,
    },
    /// Make a link; one that is there already is shown
    Create {
        /// Where it goes out from
        #[arg(long, value_name = "MODULE/TYPE/ID", value_parser = entity)]
        from: Entity,
        /// Where it leads
        #[arg(long, value_name = "MODULE/TYPE/ID", value_parser = entity)]
        to: Entity,
        /// Its type
        #[arg(long = "type", value_name = "TYPE", default_value = "reference", value_parser = TYPES)]
        link_type: String,
        /// What is to be kept with it: a JSON object
        #[arg(long, value_name = "JSON", value_parser = object)]
        metadata: Option<Map<String, Value>>,
        /// Tenant
        #[arg(long)]
        org: Option<String>,
    },
    /// Delete a link
    Delete {
        /// The link's id
        id: String,
    },
    /// Follow links from one entity on
    Walk {
        /// The entity
        #[arg(value_name = "MODULE/TYPE/ID", value_parser = entity)]
        start: Entity,
        /// Tenant
        #[arg(long)]
        org: Option<String>,
        /// Which way
        #[arg(long, value_parser = ["outbound", "inbound", "both"])]
        direction: Option<String>,
        /// Of this type
        #[arg(long = "type", value_name = "TYPE", value_parser = TYPES)]
        link_type: Option<String>,
        /// Steps at most
        #[arg(long)]
        depth: Option<u32>,
        /// Entities at most
        #[arg(long)]
        limit: Option<u32>,
    },
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    module: String,
    kind: String,
    id: String,
}

/// Reads `MODULE/TYPE/ID`; an id may have further slashes.
fn entity(text: &str) -> Result<Entity, String> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(module), Some(kind), Some(id)) if ![&module, &kind, &id].iter().any(|part| part.is_empty()) => {
            Ok(Entity { module, kind, id })
        }
        _ => Err("three parts, MODULE/TYPE/ID".to_owned()),
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

impl Entity {
    fn members(self, end: &str) -> [(String, String); 3] {
        [(format!("{end}module"), self.module), (format!("{end}type"), self.kind), (format!("{end}id"), self.id)]
    }
}

fn with_end(query: Query, end: &str, entity: Option<Entity>) -> Query {
    let members = entity.into_iter().flat_map(|entity| entity.members(end));
    members.fold(query, |query, (name, value)| query.with_named(name, value))
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("TYPE", "/link_type"),
    ("FROM", "/source_module"),
    ("", "/source_type"),
    ("", "/source_id"),
    ("TO", "/target_module"),
    ("", "/target_type"),
    ("", "/target_id"),
    ("CREATED", "/created/at"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let none = Query::none();
    let path = |id: &str| format!("/v1/links/{}", segment(id));
    match command {
        Command::List { org, from, to, link_type, both_ways, cursor, limit } => {
            let query = with_end(with_end(Query::none().with("org", org), "source_", from), "target_", to);
            let query = query.with("link_type", link_type).with("both_ways", both_ways.then_some(true));
            let query = query.with("cursor", cursor).with("limit", Some(limit));
            output.list(&client.call(Method::GET, "/v1/links", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Show { id } => output.thing(&client.call(Method::GET, &path(&id), &none, Body::None).await?),
        Command::Create { from, to, link_type, metadata, org } => {
            let ends = from.members("source_").into_iter().chain(to.members("target_"));
            let mut document: Map<String, Value> = ends.map(|(name, text)| (name, text.into())).collect();
            document.insert("link_type".to_owned(), link_type.into());
            let members = [("org", org.map(Value::from)), ("metadata", metadata.map(Value::from))];
            document.extend(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            let body = Body::from(&Value::Object(document));
            output.thing(&client.call(Method::POST, "/v1/links", &none, body).await?)
        }
        Command::Delete { id } => {
            output.thing(&client.call(Method::DELETE, &path(&id), &none, Body::None).await?)?;
            output.say("deleted")
        }
        Command::Walk { start, org, direction, link_type, depth, limit } => {
            let query = with_end(Query::none().with("org", org), "", Some(start)).with("direction", direction);
            let query = query.with("link_type", link_type).with("depth", depth).with("limit", limit);
            output.thing(&client.call(Method::GET, "/v1/links/walk", &query, Body::None).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_three_parts_and_the_last_may_have_slashes() {
        let read = entity("crm/contact/a/b").expect("reads");
        assert_eq!((read.module.as_str(), read.kind.as_str(), read.id.as_str()), ("crm", "contact", "a/b"));
        for bad in ["", "crm", "crm/contact", "crm//7", "/contact/7", "crm/contact/"] {
            assert!(entity(bad).is_err(), "{bad}");
        }
    }
}
