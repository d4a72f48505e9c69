//! Links between entities over HTTP (LNK-1).

use actix_web::http::StatusCode;
use actix_web::web;

use super::answer::{Answer, done, json, text};
use super::caller::{Call, Caller};
use super::params::{Params, refuse};
use crate::ground::error::Problem;
use crate::hub::Scope;
use crate::link::walk::{DEPTH_DEFAULT, DEPTH_MAX, NODES_DEFAULT, NODES_MAX};
use crate::link::{Direction, Entity, LinkQuery, LinkType, NewLink, WalkQuery, link_json, walked_json};

/// The parameters of a look-up.
const PARAMETERS: &[&str] = &[
    "org",
    "source_module",
    "source_type",
    "source_id",
    "target_module",
    "target_type",
    "target_id",
    "link_type",
    "both_ways",
    "cursor",
    "limit",
];
/// The parameters of a walk.
const WALK_PARAMETERS: &[&str] = &["org", "module", "type", "id", "direction", "link_type", "depth", "limit"];

/// The org that a question is about: links are always those of one.
fn org_of(caller: &Caller, params: &Params) -> Result<String, Problem> {
    let org = caller.org_within(params)?;
    org.ok_or_else(|| refuse("org", "required: the key is not confined to one", "nothing"))
}

/// An entity from the three parameters that begin with `prefix`: all of them or none.
fn entity(params: &Params, prefix: &str) -> Result<Option<Entity>, Problem> {
    let names = ["module", "type", "id"].map(|part| format!("{prefix}{part}"));
    match [0, 1, 2].map(|at: usize| params.text(&names[at])) {
        [Some(module), Some(entity_type), Some(id)] => Ok(Some(Entity { module, entity_type, id })),
        [None, None, None] => Ok(None),
        given => {
            let missing = given.iter().position(Option::is_none).unwrap_or_default();
            Err(refuse(&names[missing], format!("required beside the others of {}", names.join(", ")), "nothing"))
        }
    }
}

fn link_type(params: &Params) -> Result<Option<LinkType>, Problem> {
    params.choice("link_type", &LinkType::ALL, LinkType::as_str)
}

/// `POST /v1/links`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Publish)?;
    let new = NewLink::read(&caller.document().await?)?;
    let context = caller.context();
    let org = caller.own_org();
    let created = caller.hub().blocking(move |hub| hub.link_book().create(new, org.as_deref(), context)).await?;
    let status = if created.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(text(status, link_json(&created.link)))
}

/// `GET /v1/links`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(PARAMETERS)?;
    let org = org_of(&caller, &params)?;
    let query = LinkQuery {
        source: entity(&params, "source_")?,
        target: entity(&params, "target_")?,
        link_type: link_type(&params)?,
        both_ways: params.flag("both_ways")?,
        cursor: params.text("cursor"),
        limit: params.limit()?,
    };
    let page = caller.hub().blocking(move |hub| hub.link_book().find(&org, &query)).await?;
    let items: Vec<String> = page.links.iter().map(link_json).collect();
    let (next, has_more) = (serde_json::Value::from(page.next), page.has_more);
    let answer = format!("{{\"items\":[{}],\"next_cursor\":{next},\"has_more\":{has_more}}}", items.join(","));
    Ok(text(StatusCode::OK, answer))
}

/// `GET /v1/links/walk`
pub(crate) async fn walk(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(WALK_PARAMETERS)?;
    let org = org_of(&caller, &params)?;
    let start = entity(&params, "")?.ok_or_else(|| refuse("module", "required, with type and id", "nothing"))?;
    let depth = params.number("depth", 1, u64::from(DEPTH_MAX))?;
    let query = WalkQuery {
        start,
        direction: params.choice("direction", &Direction::ALL, Direction::as_str)?.unwrap_or_default(),
        link_type: link_type(&params)?,
        depth_max: depth.and_then(|depth| u32::try_from(depth).ok()).unwrap_or(DEPTH_DEFAULT),
        nodes_max: params.limit_within(NODES_DEFAULT, NODES_MAX)?,
    };
    let walked = caller.hub().blocking(move |hub| hub.link_book().walk(&org, query)).await?;
    Ok(json(StatusCode::OK, &walked_json(&walked)))
}

/// `GET /v1/links/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.own_org();
    let link = caller.hub().blocking(move |hub| hub.link_book().get(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, link_json(&link)))
}

/// `DELETE /v1/links/{id}`
pub(crate) async fn delete(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Publish)?;
    let org = caller.own_org();
    caller.hub().blocking(move |hub| hub.link_book().delete(&id, org.as_deref())).await?;
    Ok(done())
}
