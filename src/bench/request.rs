//! A request as bytes that are written again and again, with only its numbers patched; and the answer's head.
//!
//! Every event carries a number of twelve digits, so that no two bodies are alike and an arrival can be told from
//! another. Patching digits in place costs nothing beside the two system calls of a request.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// Stands in a body where the event's number goes: twelve digits.
pub const NUMBER: &str = "@@@@@@@@@@@@";
/// Stands in a body where the event's number modulo 1,000 goes: twelve digits.
pub const NUMBER_OF_1000: &str = "~~~~~~~~~~~~";
/// Digits of a number.
const DIGITS: usize = NUMBER.len();
/// Headers of an answer that are looked at.
const HEADERS_MAX: usize = 32;
/// Largest head of an answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Largest body of an answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a number goes in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    at: usize,
    event: u64,
    modulus: u64,
}

/// How events make a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One event is the body.
    One,
    /// The body is a JSON array of the events.
    Array,
}

/// A POST request whose numbers are filled in per send.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    events: u64,
}

impl Template {
    /// A POST of JSON to `path` at `host`. `headers` are sent as they are; [`NUMBER`] in an event is its place.
    #[must_use]
    pub fn post(host: SocketAddr, path: &str, headers: &[(&str, &str)], events: &[String], shape: Shape) -> Self {
        let (open, close) = match shape {
            Shape::One => ("", ""),
            Shape::Array => ("[", "]"),
        };
        let body = format!("{open}{}{close}", events.join(","));
        let mut text = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n");
        for (name, value) in headers {
            push_line(&mut text, name, value);
        }
        push_line(&mut text, "content-length", &body.len().to_string());
        text.push_str("\r\n");
        let mut at = text.len() + open.len();
        let mut slots = Vec::new();
        for (index, event) in events.iter().enumerate() {
            for (marker, modulus) in [(NUMBER, u64::MAX), (NUMBER_OF_1000, 1_000)] {
                slots.extend(event.match_indices(marker).map(|(found, _)| Slot {
                    at: at + found,
                    event: index as u64,
                    modulus,
                }));
            }
            at += event.len() + 1;
        }
        text.push_str(&body);
        Self { bytes: text.into_bytes(), slots, events: events.len() as u64 }
    }

    /// Events in one request.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A copy of the bytes, to be stamped and sent by one connection.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Writes the numbers `first`, `first + 1`, … into the places of the events.
    pub fn stamp(&self, bytes: &mut [u8], first: u64) {
        for slot in &self.slots {
            if let Some(place) = bytes.get_mut(slot.at..slot.at + DIGITS) {
                write_digits(place, (first + slot.event) % slot.modulus);
            }
        }
    }
}

fn push_line(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(": ");
    text.push_str(value);
    text.push_str("\r\n");
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// An event of exactly `bytes` bytes (at least 128): order lines as data, as a shop would send them.
/// `extra` goes in front of the other members, such as `"id":"…",`.
#[must_use]
pub fn event_json(event_type: &str, extra: &str, bytes: usize) -> String {
    const LINE: &str = r#"{"sku":"A-1001","qty":2,"price":19.95,"gift":false}"#;
    const TAIL: &str = r#"],"note":""}}"#;
    let mut text = format!(r#"{{{extra}"type":"{event_type}","data":{{"n":"{NUMBER}","lines":["#);
    let mut lines = 0;
    // Two thirds are structure, the rest is one text: much like an order with a remark.
    while text.len() + LINE.len() + 1 + TAIL.len() <= bytes * 2 / 3 {
        let comma = if lines == 0 { "" } else { "," };
        if write!(text, "{comma}{LINE}").is_err() {
            break;
        }
        lines += 1;
    }
    let room = bytes.saturating_sub(text.len() + TAIL.len());
    text.push_str(r#"],"note":""#);
    text.extend(std::iter::repeat_n("lorem ipsum ", room / 12 + 1).flat_map(str::chars).take(room));
    text.push_str(r#""}}"#);
    text
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Bytes up to and with the empty line.
    pub head_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AnswerError {
    /// Not HTTP/1.1.
    #[error("the answer is not HTTP/1.1: {0}")]
    Head(String),
    /// The head or the body is longer than the bound.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Neither a length nor a status without body.
    #[error("the answer to a {0} has no content-length")]
    NoLength(u16),
}

/// Reads the head of an answer; none when more bytes are needed.
///
/// # Errors
/// When the bytes are not the head of an answer of a stated, bounded length.
pub fn parse_answer(buffer: &[u8]) -> Result<Option<Answer>, AnswerError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if buffer.len() > HEAD_BYTES_MAX => {
            return Err(AnswerError::TooLarge(HEAD_BYTES_MAX));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(AnswerError::Head(error.to_string())),
    };
    let status = response.code.unwrap_or_default();
    let mut length = None;
    let mut keep_alive = response.version == Some(1);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close") {
            keep_alive = false;
        }
    }
    let body_bytes = match (length, status) {
        (Some(bytes), _) if bytes > ANSWER_BYTES_MAX => return Err(AnswerError::TooLarge(ANSWER_BYTES_MAX)),
        (Some(bytes), _) => bytes,
        (None, 204 | 304) => 0,
        (None, status) => return Err(AnswerError::NoLength(status)),
    };
    Ok(Some(Answer { status, head_bytes, body_bytes, keep_alive }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    #[test]
    fn an_event_has_the_size_asked_for_and_is_json() {
        for bytes in [128, 512, 1_024, 10_000] {
            let text = event_json("bench.event", r#""id":"bench-1","#, bytes);
            assert_eq!(text.len(), bytes);
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(value["type"], "bench.event");
        }
    }

    #[test]
    fn each_event_of_a_batch_gets_its_own_number() {
        let events = vec![event_json("bench.event", "", 200); 3];
        let template = Template::post(host(), "/v1/events/batch", &[("x-api-key", "k")], &events, Shape::Array);
        let mut bytes = template.bytes();
        template.stamp(&mut bytes, 41);
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let values: Vec<serde_json::Value> = serde_json::from_str(body).expect("JSON array");
        let numbers: Vec<_> = values.iter().filter_map(|value| value["data"]["n"].as_str()).collect();
        assert_eq!(numbers, ["000000000041", "000000000042", "000000000043"]);
    }

    #[test]
    fn a_number_can_be_taken_modulo_a_thousand() {
        let body = format!(r#"{{"org":"o-{NUMBER_OF_1000}","url":"/{NUMBER}"}}"#);
        let template = Template::post(host(), "/", &[], &[body], Shape::One);
        let mut bytes = template.bytes();
        template.stamp(&mut bytes, 7_003);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.ends_with(r#"{"org":"o-000000000003","url":"/000000007003"}"#));
    }

    #[test]
    fn an_answer_is_read_once_its_head_is_whole() {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
        for cut in 0..text.len() - 4 {
            assert_eq!(parse_answer(&text[..cut]), Ok(None));
        }
        let answer = Answer { status: 202, head_bytes: text.len() - 4, body_bytes: 4, keep_alive: false };
        assert_eq!(parse_answer(text), Ok(Some(answer)));
    }

    #[test]
    fn an_answer_of_unknown_or_boundless_length_is_refused() {
        let endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse_answer(endless), Err(AnswerError::NoLength(200)));
        let huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        assert_eq!(parse_answer(huge), Err(AnswerError::TooLarge(ANSWER_BYTES_MAX)));
        assert!(matches!(parse_answer(b"SSH-2.0\r\n"), Err(AnswerError::Head(_))));
    }
}
