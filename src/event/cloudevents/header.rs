//! How attribute values stand in HTTP headers (HTTP protocol binding, 3.1.3.2).

/// The value as a header carries it: everything but printable ASCII, and of that space, `"` and `%`, is
/// percent-encoded, in UTF-8 and with upper-case digits.
pub(super) fn encode(value: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if (0x21..=0x7e).contains(&byte) && !matches!(byte, b'"' | b'%') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// The characters of a header's value: quotes around it are taken off (older senders write them), then one round of
/// percent-decoding. A `%` without two digits stands for itself, since some senders do not encode it. None when the
/// bytes are no UTF-8.
pub(super) fn decode(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let unquoted = match value {
        [b'"', inner @ .., b'"'] => unescape_quoted(inner),
        plain => plain.to_vec(),
    };
    let mut out = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.as_slice();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| byte == b'%');
        match digits.and_then(|digits| Some(hex(digits[0])? << 4 | hex(digits[1])?)) {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).ok()
}

fn unescape_quoted(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next().copied()),
            other => out.push(other),
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    // A digit of base 16 is less than 256.
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_binding_are_encoded_and_decoded() {
        // Section 3.1.3.2 of the HTTP protocol binding.
        assert_eq!(encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(decode(b"Euro%20%E2%82%AC%20%F0%9F%98%80").as_deref(), Some("Euro € 😀"));
        assert_eq!(decode(b"\"Euro%20%E2%82%AC%20%F0%9F%98%80\"").as_deref(), Some("Euro € 😀"));
        assert_eq!(decode(b"Euro%20%e2%82%ac").as_deref(), Some("Euro €"));
        assert_eq!(encode(r#"50% "of" a\b~"#), r"50%25%20%22of%22%20a\b~");
    }

    #[test]
    fn what_other_senders_write_is_read() {
        assert_eq!(decode(br#" "a \"quoted\" b" "#).as_deref(), Some(r#"a "quoted" b"#));
        assert_eq!(decode(b"100%").as_deref(), Some("100%"));
        assert_eq!(decode(b"%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(decode("süd".as_bytes()).as_deref(), Some("süd"));
        assert_eq!(decode(b"%2541").as_deref(), Some("%41"), "one round only");
        assert_eq!(decode(b"%ff"), None);
        assert_eq!(decode(b"\"").as_deref(), Some("\""));
    }
}
