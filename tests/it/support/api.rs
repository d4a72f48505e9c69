//! A client of one listener with one credential.

use std::sync::{Once, OnceLock};
use std::time::Duration;

use reqwest::{Client, Method, header::HeaderMap};
use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// This answer, when its status is the one expected.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// This answer, when its status is one of those expected.
    #[track_caller]
    pub fn expect_any(self, statuses: &[u16]) -> Self {
        assert!(statuses.contains(&self.status), "{} is none of {statuses:?}: {}", self.status, self.text);
        self
    }

    /// This answer, when it is the problem expected: status, slug and problem+json.
    #[track_caller]
    pub fn expect_problem(self, status: u16, slug: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text);
        let problem = answer.json();
        assert_eq!(problem["type"], format!("urn:tidegate:problem:{slug}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        answer
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// How a client says who it is.
#[derive(Clone, Debug)]
enum Credential {
    None,
    ApiKey(String),
    Bearer(String),
}

/// A client of one listener with one credential. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    base: String,
    credential: Credential,
}

/// A client that keeps at most so many idle connections.
fn client(idle_max: usize) -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // A hub that a test has embedded may have installed it before.
        rustls::crypto::ring::default_provider().install_default().ok();
    });
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(idle_max)
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

/// The client of all tests. It keeps no connections: one would belong to the runtime of the test that opened it.
fn shared_client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| client(0)).clone()
}

impl Api {
    /// Nobody.
    pub fn anonymous(address: &str) -> Self {
        Self { client: shared_client(), base: format!("http://{address}"), credential: Credential::None }
    }

    /// The same with connections of its own that are kept, for one test's load.
    pub fn pooled(self) -> Self {
        Self { client: client(64), ..self }
    }

    /// The same towards another address.
    pub fn at(&self, address: &str) -> Self {
        Self { base: format!("http://{address}"), ..self.clone() }
    }

    /// An application, by its key.
    pub fn with_key(address: &str, key: &str) -> Self {
        Self { credential: Credential::ApiKey(key.to_owned()), ..Self::anonymous(address) }
    }

    /// An application by its key as bearer token, or the administrator.
    pub fn with_bearer(address: &str, token: &str) -> Self {
        Self { credential: Credential::Bearer(token.to_owned()), ..Self::anonymous(address) }
    }

    /// One request; an error is one of transport.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        request = match &self.credential {
            Credential::None => request,
            Credential::ApiKey(key) => request.header("x-api-key", key),
            Credential::Bearer(token) => request.bearer_auth(token),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        let name = format!("{method} {path}");
        match self.try_send(method, path, headers, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{name}: {error:?}"),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", body.to_string().into_bytes()).await
    }

    /// A POST without a body, for the verbs under a thing.
    pub async fn act(&self, path: &str) -> Answer {
        self.send(Method::POST, path, &[], None).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.send(Method::PATCH, path, &headers, Some(body.to_string().into_bytes())).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.send(Method::PUT, path, &headers, Some(body.to_string().into_bytes())).await
    }

    pub async fn post_bytes(&self, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        self.send(Method::POST, path, &[("content-type", content_type)], Some(body)).await
    }

    /// A request whose answer is read bit by bit.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.client.get(format!("{}{path}", self.base));
        request = match &self.credential {
            Credential::None => request,
            Credential::ApiKey(key) => request.header("x-api-key", key),
            Credential::Bearer(token) => request.bearer_auth(token),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Any method, with a JSON object as body where the method takes one.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        match method {
            "GET" => self.get(path).await,
            "DELETE" => self.delete(path).await,
            "PATCH" => self.patch(path, body).await,
            "POST" => self.post(path, body).await,
            "PUT" => self.put(path, body).await,
            other => panic!("no test uses {other}"),
        }
    }

    /// Publishes one event and gives its id.
    pub async fn publish(&self, event: &Value) -> String {
        let answer = self.post("/v1/events", event).await.expect(202).json();
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Makes a webhook and gives what the hub answered.
    pub async fn webhook(&self, webhook: &Value) -> Value {
        self.post("/v1/webhooks", webhook).await.expect(201).json()
    }

    /// The deliveries of an event, as the hub sees them, once `fits` says that those of interest are there.
    pub async fn consumers_of(&self, event_id: &str, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        super::until(what, || async {
            let event = self.get(&format!("/v1/events/{event_id}")).await.expect(200).json();
            let consumers = event["consumers"].as_array().unwrap_or_else(|| panic!("consumers: {event}")).clone();
            fits(&consumers).then_some(consumers)
        })
        .await
    }

    /// Waits until this consumer has this event in this status, and gives the entry.
    pub async fn wait_status(&self, event_id: &str, consumer: &str, status: &str) -> Value {
        let entry = |entries: &[Value]| {
            entries.iter().find(|entry| entry["consumer"] == consumer && entry["status"] == status).cloned()
        };
        let what = format!("event {event_id} is {status} for {consumer}");
        let entries = self.consumers_of(event_id, &what, |entries| entry(entries).is_some()).await;
        entry(&entries).unwrap()
    }

    /// The dead letters of a consumer once there are `count`.
    pub async fn wait_dead_letters(&self, consumer: &str, count: usize) -> Vec<Value> {
        super::until(&format!("{count} dead letters of {consumer}"), || async {
            let page = self.get(&format!("/v1/dead-letters?consumer={consumer}")).await.expect(200).json();
            let letters = super::items(&page).clone();
            (letters.len() >= count).then_some(letters)
        })
        .await
    }

    /// The attempts of a webhook once there are `count`.
    pub async fn wait_attempts(&self, webhook: &str, count: usize) -> Vec<Value> {
        super::until(&format!("{count} attempts of {webhook}"), || async {
            let page = self.get(&format!("/v1/webhooks/{webhook}/attempts")).await.expect(200).json();
            let attempts = super::items(&page).clone();
            (attempts.len() >= count).then_some(attempts)
        })
        .await
    }
}
