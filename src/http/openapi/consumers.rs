//! Pull consumers: made, changed, pulled from, answered, streamed.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::operation::Operation;
use super::schema::{
    FieldList, answer, count, flag, id, list, list_of, nullable, page, reference, request, text, time, told, whole,
    words,
};
use super::shared::type_pattern;
use crate::event::filter::fields::EVENT_TYPES_MAX;
use crate::ground::error::ProblemKind;
use crate::ground::limits::{
    CONSUMER_CHARS_MAX, ERROR_CHARS_MAX, RETRY_ATTEMPTS_MAX, RETRY_DELAY_MS_MAX, SCOPE_CHARS_MAX,
};
use crate::http::consumers::{POLL_DEFAULT, WAIT_MS_MAX};
use crate::http::push::MAX_DEFAULT;
use crate::hub::{PULL_MAX, STANDING, Scope, TOKENS_MAX};
use crate::pull::record::{
    DESCRIPTION_CHARS_MAX, EXPIRES_MS_MAX, EXPIRES_MS_MIN, IN_FLIGHT_MAX, LEASE_MS_MAX, LEASE_MS_MIN,
};

const TAG: &str = "consumers";
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*$";
const LOOKERS: &str = "A key with the scope `manage` may, too.";

fn example(name: &str, summary: &str, value: &Value) -> Value {
    json!({ name: { "summary": summary, "value": value } })
}

fn verb(id: &'static str, path: &'static str, summary: &'static str, about: &str, more: FieldList) -> Operation {
    let mut fields = vec![("tokens", list_of(text(128), 1, TOKENS_MAX))];
    fields.extend(more);
    let sent = json!({ "tokens": ["AQAAAAAAAAAHIAAAAAAAAAAAAAGiBYVkewAAAAAAAAAAAAAA"] });
    of_one(Scope::Consume, id, Method::POST, path)
        .told(summary, about)
        .json(request(fields, &["tokens"]), example("one", "One delivery", &sent))
        .answers(200, "What each token led to, in their order.", reference("DeliveryResults"))
        .refuses(&[ProblemKind::StaleToken])
}

fn of_one(scope: Scope, id: &'static str, method: Method, path: &'static str) -> Operation {
    let name = json!({ "type": "string", "minLength": 1, "maxLength": CONSUMER_CHARS_MAX, "pattern": NAME });
    Operation::scoped(scope, TAG, id, method, path)
        .path_parameter("name", "The consumer's name within its org", name)
        .common(&["org"])
}

pub(super) fn operations() -> Vec<Operation> {
    const ONE: &str = "/v1/consumers/{name}";
    let manage = |id, method, path| of_one(Scope::Manage, id, method, path);
    let consume = |id, method, path| of_one(Scope::Consume, id, method, path);
    let made = json!({ "name": "billing", "org": "acme", "event_types": ["invoice.*"], "start": "earliest", "ordering": "key" });
    let reason = || nullable(text(ERROR_CHARS_MAX));
    let most = json!({ "type": "integer", "minimum": 1, "maximum": PULL_MAX, "default": POLL_DEFAULT });
    let wait = json!({ "type": "integer", "minimum": 0, "maximum": WAIT_MS_MAX, "default": 0 });
    let stream_most = json!({ "type": "integer", "minimum": 1, "maximum": PULL_MAX, "default": MAX_DEFAULT });
    vec![
        Operation::scoped(Scope::Manage, TAG, "createPullConsumer", Method::POST, "/v1/consumers")
            .told(
                "Make a pull consumer",
                "Its clients ask for deliveries, each leased to who got it until it is answered. `start` says with which event it begins; what lies before is not for it. An ephemeral consumer is removed when nobody has been there for its time.",
            )
            .json(reference("NewPullConsumer"), example("billing", "Everything about invoices so far and from now on", &made))
            .correlated()
            .answers(201, "The consumer.", reference("PullConsumer"))
            .refuses(&[ProblemKind::Forbidden, ProblemKind::Conflict]),
        Operation::scoped(Scope::Consume, TAG, "listPullConsumers", Method::GET, "/v1/consumers")
            .told("List pull consumers", LOOKERS)
            .common(&["org", "cursor", "limit"])
            .answers(200, "A page of consumers.", page("items", "PullConsumer")),
        consume("getPullConsumer", Method::GET, ONE)
            .told("Look up a pull consumer", "With its lag and what is out.")
            .answers(200, "The consumer.", reference("PullConsumerStanding")),
        consume("listConsumerAttempts", Method::GET, "/v1/consumers/{name}/attempts")
            .told("List the attempts of a pull consumer", "Newest first: what clients have answered, and what they have not within the lease.")
            .common(&["cursor", "limit"])
            .answers(200, "A page of attempts.", page("items", "Attempt")),
        manage("changePullConsumer", Method::PATCH, ONE)
            .told("Change a pull consumer", "Only what is sent changes. Name, org, ordering and start stay.")
            .optional_json(reference("PullConsumerChange"), example("longer", "A longer lease", &json!({ "lease_ms": 60_000 })))
            .correlated()
            .answers(200, "The consumer as it is now.", reference("PullConsumer"))
            .refuses(&[ProblemKind::Conflict]),
        manage("deletePullConsumer", Method::DELETE, ONE)
            .told("Delete a pull consumer", "Its waits and streams end; its dead letters stay.")
            .answers_empty(204, "It is gone."),
        manage("pausePullConsumer", Method::POST, "/v1/consumers/{name}/pause")
            .told("Pause a pull consumer", "Nothing is given out; what is out can still be answered.")
            .correlated()
            .answers(200, "The consumer as it is now.", reference("PullConsumer"))
            .refuses(&[ProblemKind::Conflict]),
        manage("resumePullConsumer", Method::POST, "/v1/consumers/{name}/resume")
            .told("Resume a pull consumer", "")
            .correlated()
            .answers(200, "The consumer as it is now.", reference("PullConsumer"))
            .refuses(&[ProblemKind::Conflict]),
        consume("pull", Method::POST, "/v1/consumers/{name}/pull")
            .told("Wait for deliveries", "Answers with the first that come, or with none when the time is over. Each must be answered before its lease ends; else it is given out again, which counts as a failed attempt.")
            .optional_json(
                request(vec![("max", nullable(most)), ("wait_ms", nullable(wait))], &[]),
                example("ten", "Up to ten, within 20 ms", &json!({ "max": 10, "wait_ms": 20 })),
            )
            .answers(200, "The deliveries, by position.", answer(vec![("deliveries", list(reference("PulledDelivery")))])),
        verb("ackDeliveries", "/v1/consumers/{name}/ack", "Deliveries are done", "On disk when it is answered: no crash gives them out again.", Vec::new()),
        verb(
            "nakDeliveries",
            "/v1/consumers/{name}/nak",
            "Deliveries are to be tried again",
            "After the delay, or as the retry policy has it. Past the last attempt they are given up.",
            vec![("delay_ms", nullable(whole(0, RETRY_DELAY_MS_MAX))), ("reason", reason())],
        ),
        verb(
            "termDeliveries",
            "/v1/consumers/{name}/term",
            "Deliveries are given up",
            "Each becomes a dead letter with the reason.",
            vec![("reason", reason())],
        ),
        verb(
            "extendDeliveries",
            "/v1/consumers/{name}/extend",
            "Deliveries need longer",
            "The lease ends so many milliseconds from now, or a whole lease from now.",
            vec![("lease_ms", nullable(whole(LEASE_MS_MIN, LEASE_MS_MAX)))],
        ),
        consume("streamDeliveries", Method::GET, "/v1/consumers/{name}/stream")
            .told("Deliveries as server-sent events", "At most `max` are unanswered at a time; answers go over the POST operations.")
            .query("max", "Most unanswered deliveries", stream_most)
            .query("format", "Each event as its envelope, or as the body that a webhook would get", words(["envelope", "standard"]))
            .answers_as(200, "Events without end: `id` is the position, `data` the delivery.", "text/event-stream", told()),
        consume("openSocket", Method::GET, "/v1/consumers/{name}/ws")
            .told("Deliveries over a WebSocket", "The client sends {\"pull\": n}, and ack, nak, term or extend with tokens; the hub sends deliveries, results and errors.")
            .answers_empty(101, "The connection is a WebSocket (RFC 6455).")
            .refuses(&[ProblemKind::InvalidField]),
    ]
}

fn start() -> Value {
    json!({ "anyOf": [
        words(["earliest", "latest"]),
        request(vec![("seq", whole(1, u64::MAX >> 1))], &["seq"]),
        request(vec![("time", time())], &["time"]),
        { "type": "null" },
    ] })
}

fn settings() -> FieldList {
    let scope = || nullable(json!({ "type": "string", "minLength": 1, "maxLength": SCOPE_CHARS_MAX }));
    vec![
        ("org", nullable(text(SCOPE_CHARS_MAX))),
        ("event_types", nullable(list_of(type_pattern(), 1, EVENT_TYPES_MAX))),
        ("channel", scope()),
        ("facility", scope()),
        ("service", scope()),
        ("filter", nullable(told())),
        ("ordering", nullable(words(["none", "key", "strict"]))),
        ("lease_ms", nullable(whole(LEASE_MS_MIN, LEASE_MS_MAX))),
        ("max_attempts", nullable(whole(1, u64::from(RETRY_ATTEMPTS_MAX)))),
        ("max_in_flight", nullable(whole(1, IN_FLIGHT_MAX))),
        ("retry", nullable(reference("NewRetryPolicy"))),
        ("description", nullable(text(DESCRIPTION_CHARS_MAX))),
        ("expires_after_ms", nullable(whole(EXPIRES_MS_MIN, EXPIRES_MS_MAX))),
    ]
}

fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": CONSUMER_CHARS_MAX, "pattern": NAME })
}

fn new_consumer() -> Value {
    let mut fields = settings();
    if let Some((_, types)) = fields.iter_mut().find(|(name, _)| *name == "event_types") {
        types["type"] = json!("array");
    }
    fields.extend([("name", name()), ("start", start()), ("ephemeral", nullable(flag()))]);
    request(fields, &["name", "event_types"])
}

fn change() -> Value {
    let mut fields = settings();
    fields.push(("name", nullable(name())));
    request(fields, &[])
}

fn consumer(more: FieldList) -> Value {
    let mut fields = vec![
        ("id", id("con")),
        ("name", told()),
        ("org", nullable(told())),
        ("event_types", list(type_pattern())),
        ("channel", nullable(told())),
        ("facility", nullable(told())),
        ("service", nullable(told())),
        ("filter", nullable(told())),
        ("filter_error", nullable(told())),
        ("ordering", words(["none", "key", "strict"])),
        ("lease_ms", count()),
        ("max_attempts", count()),
        ("max_in_flight", count()),
        ("retry", nullable(reference("RetryPolicy"))),
        ("description", nullable(told())),
        ("ephemeral", flag()),
        ("expires_after_ms", nullable(count())),
        ("status", words(["active", "paused"])),
        ("start", start()),
        ("start_seq", count()),
        ("created_at", time()),
        ("created_by", reference("WriteContext")),
        ("updated_at", time()),
        ("updated_by", reference("WriteContext")),
    ];
    fields.extend(more);
    answer(fields)
}

fn delivery() -> Value {
    let event = json!({ "type": "object", "additionalProperties": true, "description": "The envelope as it stands in the log." });
    answer(vec![
        ("event", event),
        ("token", told()),
        ("attempt", whole(1, u64::from(u32::MAX))),
        ("lease_until", time()),
    ])
}

fn results() -> Value {
    let result = answer(vec![
        ("token", told()),
        ("status", words(["acked", "retry", "dead_letter", "extended", "stale"])),
        ("due_at", nullable(time())),
        ("lease_until", nullable(time())),
    ]);
    answer(vec![("results", list(result))])
}

pub(super) fn schemas() -> FieldList {
    let standing = STANDING.iter().map(|name| (*name, nullable(count()))).collect();
    vec![
        ("NewPullConsumer", new_consumer()),
        ("PullConsumerChange", change()),
        ("PullConsumer", consumer(Vec::new())),
        ("PullConsumerStanding", consumer(standing)),
        ("PulledDelivery", delivery()),
        ("DeliveryResults", results()),
    ]
}
