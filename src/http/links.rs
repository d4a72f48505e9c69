//! Links between entities over HTTP (LNK-1).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::answer::{Answer, json, text};
use super::auth::{Principal, authorize, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::Scope;
use crate::link::new::TYPE_WORDS;
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

fn refuse(name: &str, limit: impl Into<String>, sent: &str) -> Problem {
    Problem::field(name, limit, sent).as_kind(ProblemKind::InvalidParameter)
}

/// The org that a question is about: links are always those of one.
fn org_of(params: &Params, principal: &Principal) -> Result<String, Problem> {
    let org = scoped_org(params.text("org"), principal.org())?;
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
    let Some(text) = params.get("link_type") else { return Ok(None) };
    let found = LinkType::ALL.into_iter().find(|one| one.as_str() == text);
    found.map(Some).ok_or_else(|| refuse("link_type", format!("one of {TYPE_WORDS}"), text))
}

/// `POST /v1/links`
pub(crate) async fn create(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    body::expect_type(&request, &["application/json"])?;
    let bytes = body::read(&app, &request, &mut payload, body::DOCUMENT_BYTES_MAX).await?;
    let new = NewLink::read(&bytes)?;
    let context = write_context(&app, &request, &principal);
    let org = principal.org().map(str::to_owned);
    let created = app.hub.blocking(move |hub| hub.link_book().create(new, org.as_deref(), context)).await?;
    let status = if created.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(text(status, link_json(&created.link)))
}

/// `GET /v1/links`
pub(crate) async fn list(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, PARAMETERS)?;
    let org = org_of(&params, &principal)?;
    let query = LinkQuery {
        source: entity(&params, "source_")?,
        target: entity(&params, "target_")?,
        link_type: link_type(&params)?,
        both_ways: params.flag("both_ways")?,
        cursor: params.text("cursor"),
        limit: params.limit()?,
    };
    let page = app.hub.blocking(move |hub| hub.link_book().find(&org, &query)).await?;
    let items: Vec<String> = page.links.iter().map(link_json).collect();
    let (next, has_more) = (serde_json::Value::from(page.next), page.has_more);
    let answer = format!("{{\"items\":[{}],\"next_cursor\":{next},\"has_more\":{has_more}}}", items.join(","));
    Ok(text(StatusCode::OK, answer))
}

/// `GET /v1/links/walk`
pub(crate) async fn walk(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let params = Params::read(&request, WALK_PARAMETERS)?;
    let org = org_of(&params, &principal)?;
    let start = entity(&params, "")?.ok_or_else(|| refuse("module", "required, with type and id", "nothing"))?;
    let direction = match params.get("direction") {
        None => Direction::default(),
        Some(text) => Direction::ALL
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| refuse("direction", "one of outbound, inbound, both", text))?,
    };
    let depth = params.number("depth", 1, u64::from(DEPTH_MAX))?;
    let query = WalkQuery {
        start,
        direction,
        link_type: link_type(&params)?,
        depth_max: depth.and_then(|depth| u32::try_from(depth).ok()).unwrap_or(DEPTH_DEFAULT),
        nodes_max: params.limit_within(NODES_DEFAULT, NODES_MAX)?,
    };
    let walked = app.hub.blocking(move |hub| hub.link_book().walk(&org, query)).await?;
    Ok(json(StatusCode::OK, &walked_json(&walked)))
}

/// `GET /v1/links/{id}`
pub(crate) async fn show(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Read)?;
    let org = principal.org().map(str::to_owned);
    let link = app.hub.blocking(move |hub| hub.link_book().get(&id, org.as_deref())).await?;
    Ok(text(StatusCode::OK, link_json(&link)))
}

/// `DELETE /v1/links/{id}`
pub(crate) async fn delete(app: Shared, request: HttpRequest, id: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let org = principal.org().map(str::to_owned);
    app.hub.blocking(move |hub| hub.link_book().delete(&id, org.as_deref())).await?;
    Ok(HttpResponse::NoContent().finish())
}
