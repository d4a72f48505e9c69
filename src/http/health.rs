//! Health, readiness, version, metrics (OBS-1, OBS-4). No key is needed: they tell nothing of any tenant.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, json};
use crate::ground::error::{Problem, ProblemKind};

/// `GET /healthz`: the process answers.
pub(crate) async fn healthz() -> HttpResponse {
    json(StatusCode::OK, &json!({"status": "ok"}))
}

/// `GET /readyz`: the hub can take events.
pub(crate) async fn readyz(app: Shared) -> HttpResponse {
    let components = app.hub.components();
    let ready = components.iter().all(|one| one.ok) && !app.stopping.load(std::sync::atomic::Ordering::Acquire);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "not_ready" };
    let failing: Vec<&str> = components.iter().filter(|one| !one.ok).map(|one| one.name).collect();
    json(status, &json!({"status": word, "failing": failing, "paused": app.hub.is_paused()}))
}

/// `GET /version`
pub(crate) async fn version() -> HttpResponse {
    json(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("TIDEGATE_COMMIT"),
            "build_date": env!("TIDEGATE_BUILD_DATE"),
        }),
    )
}

/// `GET /metrics`
pub(crate) async fn metrics(app: Shared) -> Answer {
    match app.hub.metrics_text() {
        Ok(text) => Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain; version=0.0.4")).body(text)),
        Err(error) => {
            tracing::error!(%error, "the series cannot be written");
            Err(Problem::new(ProblemKind::Internal, "the series cannot be written").into())
        }
    }
}
