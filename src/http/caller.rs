//! One request of the API, as every handler takes it: a [`Call`] is let in by the scope it needs and is then a [`Caller`],
//! who has a query, a body, an org it may be confined to, and a context for what it writes.
//!
//! Nothing of the query or the body is read, or said, before it is known who asks.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev, web};

use super::auth::{Principal, authorize, authorize_any, write_context};
use super::params::Params;
use super::{Shared, body};
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::hub::{Hub, Scope};

/// A request before it is known who asks.
pub(crate) struct Call {
    app: Shared,
    request: HttpRequest,
    payload: web::Payload,
}

impl FromRequest for Call {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let app = Shared::from_request(request, payload).into_inner();
        let body = web::Payload::from_request(request, payload).into_inner();
        ready(app.and_then(|app| Ok(Self { app, request: request.clone(), payload: body? })))
    }
}

impl Call {
    /// The caller, when it may do what needs `scope`.
    ///
    /// # Errors
    /// When nobody knows the caller, or it has not the scope.
    pub(crate) fn by(self, scope: Scope) -> Result<Caller, Problem> {
        let principal = authorize(&self.app, &self.request, scope)?;
        Ok(self.let_in(principal))
    }

    /// The caller, when it may do what needs any one of these scopes.
    ///
    /// # Errors
    /// When nobody knows the caller, or it has none of the scopes.
    pub(crate) fn by_any(self, scopes: &[Scope]) -> Result<Caller, Problem> {
        let principal = authorize_any(&self.app, &self.request, scopes)?;
        Ok(self.let_in(principal))
    }

    fn let_in(self, principal: Principal) -> Caller {
        let Self { app, request, payload } = self;
        Caller { app, request, payload, principal }
    }
}

/// Who asks, with what it has sent.
pub(crate) struct Caller {
    pub(crate) app: Shared,
    pub(crate) request: HttpRequest,
    pub(crate) principal: Principal,
    payload: web::Payload,
}

impl Caller {
    /// The hub that is asked.
    pub(crate) fn hub(&self) -> &Hub {
        &self.app.hub
    }

    /// The org the caller is confined to; none means any.
    pub(crate) fn org(&self) -> Option<&str> {
        self.principal.org()
    }

    /// The same, for work that goes on elsewhere.
    pub(crate) fn own_org(&self) -> Option<String> {
        self.org().map(str::to_owned)
    }

    /// The parameters of the query; those that are not `known` are refused.
    pub(crate) fn params(&self, known: &[&str]) -> Result<Params, Problem> {
        Params::read(&self.request, known)
    }

    /// The org that the query narrows the request to: the caller's own when it is confined to one.
    pub(crate) fn org_within(&self, params: &Params) -> Result<Option<String>, Problem> {
        scoped_org(params.text("org"), self.org())
    }

    /// The same of a query that may hold nothing else.
    pub(crate) fn org_asked(&self) -> Result<Option<String>, Problem> {
        self.org_within(&self.params(&["org"])?)
    }

    /// The context of what the caller writes now.
    pub(crate) fn context(&self) -> WriteContext {
        write_context(&self.app, &self.request, &self.principal)
    }

    /// The fields of the body.
    pub(crate) async fn fields(&mut self) -> Result<Fields, Problem> {
        body::fields(&self.app, &self.request, &mut self.payload).await
    }

    /// The fields of a write, with its context.
    pub(crate) async fn write(&mut self) -> Result<(Fields, WriteContext), Problem> {
        let fields = self.fields().await?;
        Ok((fields, self.context()))
    }

    /// The body of a document as it is.
    pub(crate) async fn document(&mut self) -> Result<bytes::Bytes, Problem> {
        body::document(&self.app, &self.request, &mut self.payload).await
    }

    /// One piece of an endless body.
    pub(crate) async fn piece(&mut self) -> Result<Option<bytes::Bytes>, Problem> {
        body::piece(&self.app, &mut self.payload).await
    }
}
