//! Links between entities of different modules (LNK-1): the map that tells which contact of the CRM is which customer of
//! the ERP.
//!
//! A link goes out from a *source* and leads to a *target*, each named by module, type and id, and says what it means:
//! `reference`, `cascade` or `aggregate_root`. The hub keeps links, finds them and walks along them; what they mean is up
//! to those who read them. Links belong to an org, and no look-up ever sees those of another.
//!
//! - `new`: a link that somebody wants, and what is checked of it
//! - `find`: what a look-up asks for, and the cursor of its pages
//! - `walk`: the walk over the graph, a pure machine
//! - `book`: performs all of it on the store; blocks
//! - `links`: the face for handlers and for the program around the hub
//!
//! Invariants
//! - `LK-1` There is at most one link of a type from one entity to another. Its id is made of org, ends and type, so that
//!   two who make it at the same time make the same one.
//! - `LK-2` Making it again answers the link that is there, when its metadata is the same; with other metadata it is a
//!   conflict and nothing changes. So a repeated request is safe, and nobody overwrites what another has written.
//! - `LK-3` A link is found from both of its ends and in the list of its org, or not at all: its rows are written and
//!   removed in one commit, synced before the answer. So it is after a crash, too.
//! - `LK-4` Nothing is held in memory but the page that is read. A look-up reads its page, whatever else the org has.
//! - `LK-5` An org has at most `links.per_org_max` links.
//! - `LK-6` A walk visits each entity once, at the smallest number of steps from its start, and ends: at its depth, at its
//!   most nodes, or after [`walk::LINKS_MAX`] links. Where it was cut it says so.

pub mod book;
pub mod find;
pub mod links;
pub mod new;
pub mod walk;

pub use self::book::{Created, LinkBook};
pub use self::find::LinkQuery;
pub use self::links::Links;
pub use self::new::NewLink;
pub use self::walk::{Direction, WalkQuery, Walked};
pub use crate::store::links::{Entity, Link, LinkId, LinkType};

use serde_json::{Map, Value, json};

/// Adds an entity to an object, its fields under a prefix.
fn put_entity(object: &mut Map<String, Value>, prefix: &str, entity: &Entity) {
    let Entity { module, entity_type, id } = entity;
    for (name, text) in [("module", module), ("type", entity_type), ("id", id)] {
        object.insert(format!("{prefix}{name}"), Value::from(text.as_str()));
    }
}

fn ends(link: &Link) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("id".to_owned(), Value::from(link.id().to_string()));
    put_entity(&mut object, "source_", &link.source);
    put_entity(&mut object, "target_", &link.target);
    object.insert("link_type".to_owned(), Value::from(link.link_type.as_str()));
    object
}

/// A link as clients see it, as JSON text: the metadata stands in it as it came in.
#[must_use]
pub fn link_json(link: &Link) -> String {
    let mut object = ends(link);
    object.insert("org".to_owned(), Value::from(link.org.as_str()));
    object.insert("created".to_owned(), link.created.to_json());
    let text = Value::Object(object).to_string();
    let open = text.strip_suffix('}').unwrap_or(&text);
    format!("{open},\"metadata\":{}}}", link.metadata.as_deref().unwrap_or("null"))
}

/// What a walk has found, as clients see it.
#[must_use]
pub fn walked_json(walked: &Walked) -> Value {
    let node = |(entity, depth): &(Entity, u32)| {
        let mut object = Map::new();
        put_entity(&mut object, "", entity);
        object.insert("depth".to_owned(), Value::from(*depth));
        Value::Object(object)
    };
    json!({
        "nodes": walked.nodes.iter().map(node).collect::<Vec<_>>(),
        "links": walked.links.iter().map(|link| Value::Object(ends(link))).collect::<Vec<_>>(),
        "cut": walked.cut.map(walk::Cut::as_str),
    })
}
