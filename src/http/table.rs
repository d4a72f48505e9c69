//! The one table of routes: what the listeners answer, as data. Listeners are built from it, and the OpenAPI document is
//! compared with it, so that neither can offer what the other does not tell of.
//!
//! A new route is one line of [`TABLE`]. Its place does not matter: paths are registered with literal segments before
//! parameters, so `/v1/events/batch` is never taken for an id.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};

use super::{
    Listener, admin, answer, catalog, cdc, consumers, dead_letters, deliveries, events, exports, health, imports, jobs,
    lifecycles, links, openapi, publishes, push, quarantine, replays, schedule, socket, sources, stream, upstreams,
    webhooks,
};

/// Where a route is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// On both listeners.
    Both,
    /// On the admin listener alone.
    Admin,
}

/// One operation of the surface.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// With parameters in braces, as OpenAPI has them, too.
    pub(crate) path: &'static str,
    pub(crate) offer: Offer,
    handle: fn(Method) -> actix_web::Route,
}

impl Route {
    /// Whether a listener has it.
    pub(crate) fn is_on(&self, listener: Listener) -> bool {
        match self.offer {
            Offer::Both => true,
            Offer::Admin => listener == Listener::Admin,
        }
    }
}

macro_rules! table {
    ($($offer:ident $method:ident $path:literal => $handler:path;)*) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            offer: Offer::$offer,
            handle: |method| web::method(method).to($handler),
        }),*]
    };
}

/// Every operation.
pub(crate) static TABLE: &[Route] = table! {
    Both  GET    "/healthz"                            => health::healthz;
    Both  GET    "/readyz"                             => health::readyz;
    Both  GET    "/version"                            => health::version;
    Admin GET    "/metrics"                            => health::metrics;
    Both  GET    "/v1/openapi.json"                    => openapi::serve;

    Both  POST   "/v1/events"                          => events::publish;
    Both  GET    "/v1/events"                          => events::list;
    Both  POST   "/v1/events/batch"                    => events::publish_batch;
    Both  POST   "/v1/events/stream"                   => stream::publish_stream;
    Both  GET    "/v1/events/{id}"                     => events::show;
    Both  GET    "/v1/events/{id}/explain"             => events::explain;

    Both  GET    "/v1/scheduled"                       => schedule::list;
    Both  GET    "/v1/scheduled/{id}"                  => schedule::show;
    Both  DELETE "/v1/scheduled/{id}"                  => schedule::cancel;

    Both  POST   "/v1/sources"                         => sources::create;
    Both  GET    "/v1/sources"                         => sources::list;
    Both  POST   "/v1/sources/{name}"                  => sources::receive;
    Both  GET    "/v1/sources/{name}"                  => sources::show;
    Both  PATCH  "/v1/sources/{name}"                  => sources::change;
    Both  DELETE "/v1/sources/{name}"                  => sources::delete;
    Both  GET    "/v1/cdc"                             => cdc::feed;

    Both  POST   "/v1/links"                           => links::create;
    Both  GET    "/v1/links"                           => links::list;
    Both  GET    "/v1/links/walk"                      => links::walk;
    Both  GET    "/v1/links/{id}"                      => links::show;
    Both  DELETE "/v1/links/{id}"                      => links::delete;

    Both  GET    "/v1/catalog"                         => catalog::full;
    Both  GET    "/v1/catalog.html"                    => catalog::full_page;
    Both  GET    "/v1/catalog/types"                   => catalog::list;
    Both  PUT    "/v1/catalog/types/{name}"            => catalog::put;
    Both  GET    "/v1/catalog/types/{name}"            => catalog::show;
    Both  PATCH  "/v1/catalog/types/{name}"            => catalog::change;
    Both  DELETE "/v1/catalog/types/{name}"            => catalog::delete;
    Both  POST   "/v1/catalog/types/{name}/versions"   => catalog::register;
    Both  GET    "/v1/catalog/types/{name}/versions"   => catalog::versions;
    Both  GET    "/v1/catalog/types/{name}/versions/{version}" => catalog::version;
    Both  PATCH  "/v1/catalog/types/{name}/versions/{version}" => catalog::change_version;
    Both  GET    "/v1/catalog/types/{name}/specimens"  => catalog::specimens;
    Both  GET    "/v1/catalog/contracts"               => catalog::services;
    Both  GET    "/v1/catalog/contracts/{service}"     => catalog::contract;
    Both  GET    "/v1/catalog/policy"                  => catalog::policy;
    Both  PATCH  "/v1/catalog/policy"                  => catalog::change_policy;

    Both  GET    "/v1/catalog/lifecycles"              => lifecycles::list;
    Both  PUT    "/v1/catalog/lifecycles/{aggregate_type}" => lifecycles::put;
    Both  GET    "/v1/catalog/lifecycles/{aggregate_type}" => lifecycles::show;
    Both  DELETE "/v1/catalog/lifecycles/{aggregate_type}" => lifecycles::delete;
    Both  GET    "/v1/catalog/lifecycles/{aggregate_type}/flags" => lifecycles::flags;
    Both  GET    "/v1/catalog/lifecycles/{aggregate_type}/aggregates/{id}" => lifecycles::aggregate;

    Both  GET    "/v1/quarantine"                      => quarantine::list;
    Both  GET    "/v1/quarantine/{id}"                 => quarantine::show;
    Both  POST   "/v1/quarantine/{id}/redrive"         => quarantine::redrive;
    Both  POST   "/v1/quarantine/{id}/discard"         => quarantine::discard;
    Both  POST   "/v1/quarantine/redrive"              => quarantine::redrive_many;

    Both  POST   "/v1/webhooks"                        => webhooks::create;
    Both  GET    "/v1/webhooks"                        => webhooks::list;
    Both  GET    "/v1/webhooks/{id}"                   => webhooks::show;
    Both  PATCH  "/v1/webhooks/{id}"                   => webhooks::change;
    Both  DELETE "/v1/webhooks/{id}"                   => webhooks::delete;
    Both  GET    "/v1/webhooks/{id}/attempts"          => webhooks::attempts;
    Both  GET    "/v1/webhooks/{id}/deliveries"        => deliveries::of_webhook;
    Both  POST   "/v1/webhooks/{id}/pause"             => webhooks::pause;
    Both  POST   "/v1/webhooks/{id}/resume"            => webhooks::resume;
    Both  POST   "/v1/webhooks/{id}/rotate-secret"     => webhooks::rotate_secret;
    Both  POST   "/v1/webhooks/{id}/test"              => webhooks::test;

    Both  POST   "/v1/consumers"                       => consumers::create;
    Both  GET    "/v1/consumers"                       => consumers::list;
    Both  GET    "/v1/consumers/{name}"                => consumers::show;
    Both  PATCH  "/v1/consumers/{name}"                => consumers::change;
    Both  DELETE "/v1/consumers/{name}"                => consumers::delete;
    Both  POST   "/v1/consumers/{name}/pause"          => consumers::pause;
    Both  POST   "/v1/consumers/{name}/resume"         => consumers::resume;
    Both  GET    "/v1/consumers/{name}/attempts"       => consumers::attempts;
    Both  POST   "/v1/consumers/{name}/pull"           => consumers::pull;
    Both  POST   "/v1/consumers/{name}/ack"            => consumers::ack;
    Both  POST   "/v1/consumers/{name}/nak"            => consumers::nak;
    Both  POST   "/v1/consumers/{name}/term"           => consumers::term;
    Both  POST   "/v1/consumers/{name}/extend"         => consumers::extend;
    Both  GET    "/v1/consumers/{name}/stream"         => push::stream;
    Both  GET    "/v1/consumers/{name}/ws"             => socket::open;

    Both  POST   "/v1/webhooks/{id}/replay"            => replays::of_webhook;
    Both  POST   "/v1/webhooks/{id}/recover"           => replays::recover;
    Both  POST   "/v1/webhooks/{id}/deliveries/{event_id}/retry" => replays::retry;
    Both  POST   "/v1/consumers/{name}/replay"         => replays::of_consumer;

    Both  GET    "/v1/jobs"                            => jobs::list;
    Both  GET    "/v1/jobs/{id}"                       => jobs::show;
    Both  POST   "/v1/jobs/{id}/cancel"                => jobs::cancel;

    Both  POST   "/v1/exports"                         => exports::create;
    Both  GET    "/v1/exports"                         => exports::list;
    Both  GET    "/v1/exports/{id}"                    => exports::show;
    Both  DELETE "/v1/exports/{id}"                    => exports::delete;
    Both  GET    "/v1/exports/{id}/parts"              => exports::parts;
    Both  GET    "/v1/exports/{id}/parts/{n}"          => exports::part;

    Both  POST   "/v1/imports"                         => imports::create;
    Both  GET    "/v1/imports"                         => imports::list;
    Both  GET    "/v1/imports/{id}"                    => imports::show;
    Both  PATCH  "/v1/imports/{id}/content"            => imports::append;
    Both  POST   "/v1/imports/{id}/commit"             => imports::commit;
    Both  GET    "/v1/imports/{id}/report"             => imports::report;
    Both  DELETE "/v1/imports/{id}"                    => imports::delete;

    Both  GET    "/v1/dead-letters"                    => dead_letters::list;
    Both  GET    "/v1/dead-letters/{id}"               => dead_letters::show;
    Both  POST   "/v1/dead-letters/{id}/redrive"       => dead_letters::redrive;
    Both  POST   "/v1/dead-letters/{id}/discard"       => dead_letters::discard;
    Both  POST   "/v1/dead-letters/redrive"            => dead_letters::redrive_many;

    Both  GET    "/v1/upstreams/{id}/reads/{read}"     => upstreams::read;
    Admin POST   "/v1/admin/upstreams"                 => upstreams::create;
    Admin GET    "/v1/admin/upstreams"                 => upstreams::list;
    Admin GET    "/v1/admin/upstreams/health"          => upstreams::health;
    Admin GET    "/v1/admin/upstreams/{id}"            => upstreams::show;
    Admin PATCH  "/v1/admin/upstreams/{id}"            => upstreams::change;
    Admin DELETE "/v1/admin/upstreams/{id}"            => upstreams::delete;
    Admin POST   "/v1/admin/upstreams/{id}/test"       => upstreams::test;
    Admin POST   "/v1/admin/upstreams/{id}/clear-cache" => upstreams::clear_cache;
    Admin POST   "/v1/admin/upstreams/{id}/reset-counters" => upstreams::reset_counters;
    Admin POST   "/v1/admin/upstreams/{id}/rotate-credential" => upstreams::rotate;

    Admin POST   "/v1/admin/keys"                      => admin::create_key;
    Admin GET    "/v1/admin/keys"                      => admin::list_keys;
    Admin PATCH  "/v1/admin/keys/{id}"                 => admin::change_key;
    Admin DELETE "/v1/admin/keys/{id}"                 => admin::revoke_key;
    Admin GET    "/v1/admin/settings"                  => admin::settings;
    Admin PATCH  "/v1/admin/settings"                  => admin::change_settings;
    Admin GET    "/v1/admin/stats"                     => admin::stats;
    Admin GET    "/v1/admin/health"                    => admin::health;
    Admin GET    "/v1/admin/consumers"                 => admin::consumers;
    Admin GET    "/v1/admin/consumers/{id}/rows"       => deliveries::of_consumer;
    Admin GET    "/v1/admin/breakers"                  => admin::breakers;
    Admin POST   "/v1/admin/breakers/{id}/{command}"   => admin::command_breaker;
    Admin POST   "/v1/admin/upstreams/{id}/publishes/{name}/preview" => publishes::preview;
    Admin DELETE "/v1/admin/upstreams/{id}/publishes/{name}" => publishes::discard;
    Admin POST   "/v1/admin/pause"                     => admin::pause;
    Admin POST   "/v1/admin/resume"                    => admin::resume;
    Admin POST   "/v1/admin/faults/{fault}"            => admin::inject_fault;
};

/// Per segment, whether it is a parameter: literal segments sort first.
fn rank(path: &str) -> Vec<bool> {
    path.split('/').map(|segment| segment.starts_with('{')).collect()
}

/// Registers what a listener has of some routes. A path that is known refuses the methods it has not.
pub(crate) fn register(routes: &[Route], listener: Listener, config: &mut ServiceConfig) {
    let mut rest: Vec<&Route> = routes.iter().filter(|route| route.is_on(listener)).collect();
    rest.sort_by_key(|route| rank(route.path));
    while let Some(path) = rest.first().map(|route| route.path) {
        let routes: Vec<&Route> = rest.extract_if(.., |route| route.path == path).collect();
        let allowed: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
        let allowed: Arc<str> = allowed.join(", ").into();
        let other = web::route().to(move |request: HttpRequest| {
            let allowed = Arc::clone(&allowed);
            async move { answer::method_not_allowed(request.method(), &allowed) }
        });
        let resource = web::resource(path).default_service(other);
        config.service(
            routes.iter().fold(resource, |resource, route| resource.route((route.handle)(route.method.clone()))),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use actix_web::http::StatusCode;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse};

    use super::*;

    async fn literal() -> HttpResponse {
        HttpResponse::Ok().body("literal")
    }

    async fn parameter() -> HttpResponse {
        HttpResponse::Ok().body("parameter")
    }

    async fn told(method: Method, path: &str, listener: Listener) -> (StatusCode, String) {
        let routes: &[Route] = table! {
            Both  GET    "/things/{id}" => parameter;
            Admin DELETE "/things/{id}" => parameter;
            Both  GET    "/things/all"  => literal;
        };
        let app = App::new().configure(|config| register(routes, listener, config));
        let app = init_service(app).await;
        let answer = call_service(&app, TestRequest::with_uri(path).method(method).to_request()).await;
        let status = answer.status();
        let body = actix_web::test::read_body(answer).await;
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[actix_web::test]
    async fn a_literal_segment_goes_before_a_parameter_wherever_its_line_stands() {
        let get = async |path| told(Method::GET, path, Listener::Public).await;
        assert_eq!(get("/things/all").await, (StatusCode::OK, "literal".into()));
        assert_eq!(get("/things/7").await, (StatusCode::OK, "parameter".into()));
    }

    #[actix_web::test]
    async fn a_method_of_the_admin_listener_is_not_on_the_public_one() {
        let delete = async |listener| told(Method::DELETE, "/things/7", listener).await.0;
        assert_eq!(delete(Listener::Admin).await, StatusCode::OK);
        assert_eq!(delete(Listener::Public).await, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn an_operation_is_in_the_table_once() {
        let mut seen = BTreeSet::new();
        for route in TABLE {
            assert!(seen.insert((route.path, route.method.as_str())), "{} {} is there twice", route.method, route.path);
        }
    }

    #[test]
    fn nothing_is_registered_beside_the_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if !path.is_file() || path.ends_with("table.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            for call in ["resource(", "scope("] {
                let beside = text.split(&format!("web::{call}")).nth(1).map(|rest| rest.chars().take(60).collect());
                let beside: Option<String> = beside;
                assert_eq!(beside, None, "{} registers a route that is no line of http::table::TABLE", path.display());
            }
        }
    }
}
