//! The `tracestate` header of W3C Trace Context (<https://www.w3.org/TR/trace-context/>, section 3.3): what the systems of
//! a trace have written for themselves, which the hub hands on as it is.

/// Members of a list at most.
const MEMBERS_MAX: usize = 32;
/// Longest list that is handed on, in characters.
pub const TRACESTATE_CHARS_MAX: usize = 512;
/// Members longer than this go first when a list is too long, in characters.
const LONG_MEMBER_CHARS: usize = 128;

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte)
}

/// `simple`, or `tenant@system`.
fn is_key(key: &str) -> bool {
    let part = |text: &str, chars_max: usize, digit_first: bool| {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || (digit_first && b.is_ascii_digit()));
        first && text.len() <= chars_max && text.bytes().all(is_key_byte)
    };
    match key.split_once('@') {
        Some((tenant, system)) => part(tenant, 241, true) && part(system, 14, false),
        None => part(key, 256, false),
    }
}

fn is_value(value: &str) -> bool {
    let fits = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(fits) && !value.ends_with(' ')
}

/// Reads a list. None when it is empty or not valid, and then it counts as absent. One that is too long loses whole
/// members: the long ones first, then the oldest, which stand last.
#[must_use]
pub fn read_tracestate(text: &str) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        let twice = members.iter().any(|known| known.split('=').next() == Some(key));
        if !is_key(key) || !is_value(value) || twice || members.len() == MEMBERS_MAX {
            return None;
        }
        members.push(member);
    }
    let chars = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    while chars(&members) > TRACESTATE_CHARS_MAX {
        let long = members.iter().rposition(|member| member.len() > LONG_MEMBER_CHARS);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    (!members.is_empty()).then(|| members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_without_the_space_between() {
        let kept = |text| read_tracestate(text);
        assert_eq!(
            kept("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE").as_deref(),
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        );
        assert_eq!(kept(" a=1 ,\tb=x y ,, 1t@sys=\"!~").as_deref(), Some("a=1,b=x y,1t@sys=\"!~"));
        assert_eq!(kept("fw529a3039@dt=FfAwAAAAAAAAAACE,a_b-c*/d=").as_deref(), None, "an empty value");
    }

    #[test]
    fn what_is_not_valid_counts_as_absent() {
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let (long_key, long_value) = (format!("{}=v", "k".repeat(257)), format!("k={}", "v".repeat(257)));
        for bad in [
            "",
            " , ",
            "a",
            "=1",
            "A=1",
            "1a=1",
            "a=1,a=2",
            "a=b=c",
            "a=\u{e9}",
            "a=1\n",
            "a@=1",
            "@b=1",
            "a@1b=1",
            "a@b@c=1",
            &many,
            &long_key,
            &long_value,
        ] {
            assert_eq!(read_tracestate(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_that_is_too_long_loses_whole_members() {
        let long = format!("long={}", "v".repeat(200));
        let short: Vec<String> = (0..30).map(|n| format!("k{n:02}={}", "v".repeat(20))).collect();
        let text = format!("{},{long},{}", short[0], short[1..].join(","));
        let kept = read_tracestate(&text).expect("valid");
        assert!(kept.len() <= TRACESTATE_CHARS_MAX && kept.len() > TRACESTATE_CHARS_MAX - 25, "{}", kept.len());
        assert!(!kept.contains("long="));
        assert!(text.starts_with(&kept[..20]) && kept.starts_with("k00=") && kept.contains(",k01="));
    }
}
