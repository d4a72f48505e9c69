//! The command line's way to a hub: which listener, with which credential, and what its answers mean.
//!
//! A hub on this machine is found through `DIR/addresses.json` and `DIR/admin.token`; the admin listener serves
//! everything for every org, so it is the default. `--url` with `--key` goes to a public listener instead.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
pub use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::exit::Failure;
use crate::config::{Config, LoadArgs};
use crate::ground::limits;
use crate::ground::secret::Secret;

/// To connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For a stream, which ends when either side has had enough.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// Characters kept of an answer that is no problem document.
const SNIPPET_CHARS_MAX: usize = limits::SNIPPET_CHARS_MAX;

/// Where the hub is and how to be let in, as flags and environment say.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which hub")]
pub struct Target {
    /// Data directory of a hub on this machine [default: the one of the settings, ./data]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Settings file
    #[arg(long, global = true, value_name = "FILE", env = "TIDEGATE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Public listener of a hub; needs a key
    #[arg(long, global = true, value_name = "URL", env = "TIDEGATE_URL", hide_env_values = true)]
    pub url: Option<Url>,
    /// API key for the public listener
    #[arg(long, global = true, value_name = "KEY", env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Admin listener of a hub
    #[arg(long, global = true, value_name = "URL", env = "TIDEGATE_ADMIN_URL", hide_env_values = true)]
    pub admin_url: Option<Url>,
    /// Admin token [default: DIR/admin.token]
    #[arg(long, global = true, value_name = "TOKEN", env = "TIDEGATE_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
}

/// Which listener a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Either: the public one when a URL or key is given, else the admin one.
    Any,
    /// The admin one only.
    Admin,
}

#[derive(Deserialize)]
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
}

impl Target {
    /// What to load settings from, as these flags say.
    #[must_use]
    pub fn load_args(&self) -> LoadArgs {
        let data_dir = self.data_dir.iter().map(|dir| ("server.data_dir".to_owned(), dir.display().to_string()));
        LoadArgs { file: self.config.clone(), overrides: data_dir.collect() }
    }

    /// The data directory of the hub on this machine.
    ///
    /// # Errors
    /// When it has to be asked of settings that do not load.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(Config::load(self.load_args())?.config.server.data_dir),
        }
    }

    /// Address and bearer credential for this door.
    fn resolve(&self, door: Door) -> Result<(Url, Secret), Failure> {
        if door == Door::Any && (self.url.is_some() || self.key.is_some()) {
            let Some(key) = &self.key else {
                return Err(Failure::Usage("--url needs an API key: --key or TIDEGATE_KEY".to_owned()));
            };
            let url = match &self.url {
                Some(url) => url.clone(),
                None => local_url(&self.data_dir()?, |addresses| addresses.public)?,
            };
            return Ok((url, Secret::new(key.as_str())));
        }
        let url = match &self.admin_url {
            Some(url) => url.clone(),
            None => local_url(&self.data_dir()?, |addresses| addresses.admin)?,
        };
        let token = match &self.admin_token {
            Some(token) => Secret::new(token.as_str()),
            None => local_token(&self.data_dir()?)?,
        };
        Ok((url, token))
    }
}

fn local_url(data_dir: &Path, pick: impl Fn(&Addresses) -> SocketAddr) -> Result<Url, Failure> {
    let path = data_dir.join("addresses.json");
    let unreachable = |reason: String| Failure::Unreachable { url: path.display().to_string(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        unreachable(format!("{error}; is a hub running with this data directory? (--data-dir, --url, --admin-url)"))
    })?;
    let addresses: Addresses = serde_json::from_str(&text).map_err(|error| unreachable(error.to_string()))?;
    let mut address = pick(&addresses);
    // A listener on every address is reached over loopback.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    Url::parse(&format!("http://{address}/")).map_err(|error| unreachable(error.to_string()))
}

fn local_token(data_dir: &Path) -> Result<Secret, Failure> {
    let path = data_dir.join("admin.token");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::Usage(format!("{}: {error}; give the token as TIDEGATE_ADMIN_TOKEN", path.display()))
    })?;
    Ok(Secret::new(text.trim()))
}

/// What is sent with a request.
#[derive(Clone, Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// A JSON document as text.
    Json(Bytes),
    /// Bytes of this content type.
    Raw(&'static str, Bytes),
}

impl From<&Value> for Body {
    fn from(value: &Value) -> Self {
        Self::Json(value.to_string().into())
    }
}

/// A hub that can be asked.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    bearer: HeaderValue,
}

impl Client {
    /// A client for the hub that the flags name. Nothing is sent yet.
    ///
    /// # Errors
    /// When no hub is named and none is found, or the credential cannot be sent.
    pub fn new(target: &Target, door: Door) -> Result<Self, Failure> {
        let (base, token) = target.resolve(door)?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(Failure::Usage("no credentials in the URL of a hub; use --key or --admin-token".to_owned()));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| Failure::Usage("the key or token has characters that no header may have".to_owned()))?;
        bearer.set_sensitive(true);
        Ok(Self { http: transport(&base)?, base, bearer })
    }

    /// Where the hub is.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Asks and gives the answer's body.
    ///
    /// # Errors
    /// When no hub answers, or it refuses.
    pub async fn call(&self, method: Method, path: &str, query: &Query, body: Body) -> Result<Bytes, Failure> {
        self.attempt(method, path, query, body).await.map_err(|refusal| refusal.failure)
    }

    /// The same, with the hub's word on when to come back.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub async fn attempt(&self, method: Method, path: &str, query: &Query, body: Body) -> Result<Bytes, Refusal> {
        let unreachable = |error: reqwest::Error| Refusal {
            failure: Failure::Unreachable { url: self.base.to_string(), reason: causes(&error.without_url()) },
            retry_after: None,
        };
        let mut request = self.http.request(method, self.address(path, query)).header(AUTHORIZATION, &self.bearer);
        request = match body {
            Body::None => request,
            Body::Json(bytes) => request.header(CONTENT_TYPE, "application/json").body(bytes),
            Body::Raw(kind, bytes) => request.header(CONTENT_TYPE, kind).body(bytes),
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(bytes);
        }
        let failure = Failure::Refused { status: status.as_u16(), problem: problem_of(&bytes) };
        Err(Refusal { failure, retry_after: after.map(Duration::from_secs) })
    }

    /// Asks for an answer that may go on for as long as it likes, of this content type.
    ///
    /// # Errors
    /// When no hub answers, or it refuses.
    pub async fn open(&self, path: &str, query: &Query, accept: &'static str) -> Result<reqwest::Response, Failure> {
        self.open_from(path, query, accept, None).await
    }

    /// The same from a byte on, as long as what is there has this entity tag; else from its beginning, with status 200.
    ///
    /// # Errors
    /// Those of [`Client::open`].
    pub async fn open_from(
        &self,
        path: &str,
        query: &Query,
        accept: &'static str,
        from: Option<(u64, &str)>,
    ) -> Result<reqwest::Response, Failure> {
        let unreachable = |error: reqwest::Error| Failure::Unreachable {
            url: self.base.to_string(),
            reason: causes(&error.without_url()),
        };
        let request = self.http.get(self.address(path, query)).header(AUTHORIZATION, &self.bearer);
        let request = match from {
            Some((byte, etag)) => request.header(RANGE, format!("bytes={byte}-")).header(IF_RANGE, etag),
            None => request,
        };
        let answer = request.header(ACCEPT, accept).timeout(STREAM_TIMEOUT).send();
        // The head of the answer comes at once; only what follows has time.
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        let answer = answer.map_err(|_| Failure::Unreachable {
            url: self.base.to_string(),
            reason: "it does not answer".to_owned(),
        })?;
        let answer = answer.map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        Err(Failure::Refused { status, problem: problem_of(&answer.bytes().await.map_err(unreachable)?) })
    }

    fn address(&self, path: &str, query: &Query) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url.set_query(None);
        if !query.0.is_empty() {
            url.query_pairs_mut().extend_pairs(&query.0);
        }
        url
    }
}

/// A request that did not succeed.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub failure: Failure,
    /// When the hub said to come back.
    pub retry_after: Option<Duration>,
}

/// Query parameters, those that are given.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(Cow<'static, str>, String)>);

impl Query {
    /// No parameters.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// With this one, when it is given.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|value| (name.into(), value.to_string())));
        self
    }

    /// With one whose name is not known beforehand.
    #[must_use]
    pub fn with_named(mut self, name: String, value: String) -> Self {
        self.0.push((name.into(), value));
        self
    }
}

/// A part of a path, with what would end it escaped.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn transport(base: &Url) -> Result<reqwest::Client, Failure> {
    // A provider that is installed already is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("tidegate-cli/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    if base.scheme() == "http" {
        // Without TLS no certificates are needed, and a bare machine may have none to load.
        builder = builder.tls_certs_only(std::iter::empty());
    }
    if is_local(base) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| Failure::Other(anyhow::anyhow!("HTTP client: {}", causes(&error))))
}

fn is_local(base: &Url) -> bool {
    match base.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The error with what caused it: the outer words alone say little.
fn causes(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        words.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    words
}

fn problem_of(body: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(body) {
        Ok(problem @ Value::Object(_)) => problem,
        Ok(_) | Err(_) => {
            let text = String::from_utf8_lossy(body);
            serde_json::json!({ "detail": limits::clip(text.trim(), SNIPPET_CHARS_MAX) })
        }
    }
}

/// A hub that answers what a test tells it to, one answer a request.
#[cfg(test)]
pub mod script {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::{Client, Door, Target};

    /// An answer: status, further header lines, body.
    pub type Answer = (u16, &'static str, &'static str);

    /// A client of a hub with this script, and the requests it got, once all answers are given.
    pub fn hub(answers: &'static [Answer]) -> (Client, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let target = Target { url: url.parse().ok(), key: Some("k-1".to_owned()), ..Target::default() };
        let serving = std::thread::spawn(move || answers.iter().map(|answer| serve(&listener, answer)).collect());
        (Client::new(&target, Door::Any).expect("a client"), serving)
    }

    fn serve(listener: &TcpListener, (status, headers, body): &Answer) -> String {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut got = Vec::new();
        let mut part = [0; 4_096];
        while !whole(&got) {
            let read = stream.read(&mut part).expect("bytes");
            assert!(read > 0, "the request ended early");
            got.extend_from_slice(&part[..read]);
        }
        let head =
            format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
        String::from_utf8(got).expect("text")
    }

    fn whole(got: &[u8]) -> bool {
        let text = String::from_utf8_lossy(got).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        body.len() >= length.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_carries_the_key_and_a_refusal_comes_back_as_its_problem() {
        let (client, hub) = script::hub(&[
            (200, "", "{\"ok\":true}"),
            (503, "retry-after: 7\r\n", "{\"title\":\"The hub cannot take this now\",\"status\":503}"),
            (502, "", "bad gateway"),
        ]);
        let query = Query::none().with("limit", Some(1));
        let answer = client.call(Method::GET, "/v1/events", &query, Body::None).await.expect("answered");
        assert_eq!(answer, "{\"ok\":true}");
        let body = Body::from(&serde_json::json!({"type": "a.b"}));
        let refusal = client.attempt(Method::POST, "/v1/events", &Query::none(), body).await.expect_err("refused");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(refusal.failure.to_string(), "The hub cannot take this now (503)");
        let refusal = client.call(Method::GET, "/x", &Query::none(), Body::None).await.expect_err("refused");
        assert_eq!(refusal.to_string(), "the hub refused (502)\n  detail: bad gateway");

        let requests = hub.join().expect("served");
        assert!(requests[0].starts_with("GET /v1/events?limit=1 HTTP/1.1\r\n"), "{}", requests[0]);
        assert!(requests[0].contains("authorization: Bearer k-1\r\n"), "{}", requests[0]);
        assert!(requests[1].ends_with("\r\n\r\n{\"type\":\"a.b\"}"), "{}", requests[1]);
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        drop(listener);
        let target = Target { url: url.parse().ok(), key: Some("k".to_owned()), ..Target::default() };
        let client = Client::new(&target, Door::Any).expect("a client");
        let failure = client.call(Method::GET, "/", &Query::none(), Body::None).await.expect_err("unreachable");
        assert_eq!(failure.code(), super::super::exit::code::UNREACHABLE);
    }

    fn folder(addresses: &str) -> (tempfile::TempDir, Target) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("addresses.json"), addresses).expect("written");
        std::fs::write(folder.path().join("admin.token"), "t-1\n").expect("written");
        let target = Target { data_dir: Some(folder.path().to_owned()), ..Target::default() };
        (folder, target)
    }

    #[test]
    fn a_local_hub_is_found_by_its_data_directory_over_the_admin_listener() {
        let (_folder, target) = folder(r#"{"public":"0.0.0.0:8081","admin":"127.0.0.1:8080"}"#);
        let (url, token) = target.resolve(Door::Any).expect("found");
        assert_eq!((url.as_str(), token.expose()), ("http://127.0.0.1:8080/", "t-1"));
    }

    #[test]
    fn a_key_leads_to_the_public_listener_except_for_admin_commands() {
        let (_folder, mut target) = folder(r#"{"public":"[::]:8081","admin":"127.0.0.1:8080"}"#);
        target.key = Some("k".to_owned());
        let (url, key) = target.resolve(Door::Any).expect("found");
        assert_eq!((url.as_str(), key.expose()), ("http://[::1]:8081/", "k"));
        assert_eq!(target.resolve(Door::Admin).expect("found").0.as_str(), "http://127.0.0.1:8080/");
    }

    #[test]
    fn a_url_without_a_key_is_a_usage_error_and_a_missing_hub_is_unreachable() {
        let target = Target { url: Url::parse("http://127.0.0.1:1").ok(), ..Target::default() };
        assert_eq!(target.resolve(Door::Any).expect_err("refused").code(), super::super::exit::code::USAGE);
        let target = Target { data_dir: Some("/nonexistent".into()), ..Target::default() };
        assert_eq!(target.resolve(Door::Any).expect_err("refused").code(), super::super::exit::code::UNREACHABLE);
    }

    #[test]
    fn an_address_keeps_the_path_of_its_base_and_escapes_what_is_given() {
        let client = Client {
            base: Url::parse("http://h:1/hub/").expect("a URL"),
            http: transport(&Url::parse("http://h:1/").expect("a URL")).expect("built"),
            bearer: HeaderValue::from_static("Bearer x"),
        };
        let path = format!("/v1/events/{}", segment("a/../b?c"));
        let url = client.address(&path, &Query::none().with("type", Some("a&b")).with("org", None::<String>));
        assert_eq!(url.as_str(), "http://h:1/hub/v1/events/a%2F..%2Fb%3Fc?type=a%26b");
    }
}
