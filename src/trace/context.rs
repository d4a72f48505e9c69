//! The `traceparent` header of W3C Trace Context (<https://www.w3.org/TR/trace-context/>, section 3.2).

/// The id of a trace: never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId([u8; 16]);

/// The id of a span: never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanId([u8; 8]);

impl TraceId {
    /// None when all bytes are zero.
    pub(super) fn new(bytes: [u8; 16]) -> Option<Self> {
        bytes.iter().any(|byte| *byte != 0).then_some(Self(bytes))
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Whether this share of all traces has this one: decided by the last eight bytes, so that all who use the same
    /// ratio decide alike (OpenTelemetry's `TraceIdRatioBased`).
    pub(super) fn is_sampled(self, ratio: f64) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        let part = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        (part as f64) < ratio * (i64::MAX as f64) || ratio >= 1.0
    }
}

impl SpanId {
    /// None when all bytes are zero.
    pub(super) fn new(bytes: [u8; 8]) -> Option<Self> {
        bytes.iter().any(|byte| *byte != 0).then_some(Self(bytes))
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
}

/// Reads exactly so many bytes of lower-case hex.
fn hex_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let mut out = [0_u8; N];
    (lower && hex::decode_to_slice(text, &mut out).is_ok()).then_some(out)
}

impl TraceContext {
    /// Reads a header. None when it is not valid, and then it counts as absent. Of a version to come, which may append
    /// parts, what version 00 has is read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version] = hex_of(parts.next()?)?;
        let trace = TraceId::new(hex_of(parts.next()?)?)?;
        let span = SpanId::new(hex_of(parts.next()?)?)?;
        let [flags] = hex_of(parts.next()?)?;
        let more = parts.next().is_some();
        (version != 0xff && !(version == 0 && more)).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// The header, as version 00.
    #[must_use]
    pub fn to_header(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace.to_hex(), self.span.to_hex(), u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written() {
        let context = TraceContext::parse(GIVEN).expect("valid");
        assert!(context.sampled);
        assert_eq!(context.to_header(), GIVEN);
        let off = TraceContext::parse(&GIVEN.replace("-01", "-00")).expect("valid");
        assert!(!off.sampled);
    }

    #[test]
    fn a_version_to_come_is_read_as_far_as_it_is_known_and_written_as_ours() {
        for later in
            ["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-what-comes", &GIVEN.replacen("00", "01", 1)]
        {
            assert_eq!(TraceContext::parse(later).expect(later).to_header(), GIVEN);
        }
    }

    #[test]
    fn what_is_not_valid_counts_as_absent() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_ratio_samples_that_share_of_traces() {
        let spread = |n: u128| TraceId(n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes());
        let ids: Vec<TraceId> = (1..=1_000).map(spread).collect();
        let share = |ratio: f64| ids.iter().filter(|id| id.is_sampled(ratio)).count();
        assert_eq!((share(0.0), share(1.0)), (0, 1_000));
        assert!((150..350).contains(&share(0.25)), "{}", share(0.25));
    }
}
