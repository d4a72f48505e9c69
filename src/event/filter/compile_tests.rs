//! What is refused, where, and why.

use super::super::expression::{EXPRESSION_CHARS_MAX, Expression};

fn refused(text: &str) -> String {
    Expression::parse(text).map_or_else(|problem| problem.limit.unwrap_or_default(), |_| format!("taken: {text}"))
}

#[test]
fn a_refusal_names_the_place_and_what_is_wrong_there() {
    let told: Vec<String> = [
        "data.amount >",
        "data.amount > 1 &&\n  dta.x == 2",
        "'\u{e9}\u{1F600}' == evnt.x",
        "event.sorce == 'x'",
        "event == 1",
        "event['source'] == 'x'",
        "has(event.sorce)",
        "has(data)",
        "data.x.lower() == 'a'",
        "size(data, 1) > 0",
        "{'a': 1}.a == 1",
        "Thing{a: 1} == 1",
        "b'abc' == 1",
        "data.?x == 1",
        "data.x.matches('(')",
        "data.x.matches(data.y)",
        r"data.x.matches('\\w{500}')",
        "data.x.all(y)",
        "data.x.all(1, true)",
        "data.x.all(data, true)",
        "data.all(a, a.all(b, b.all(c, true)))",
        "1",
        "data.a + data.b",
        "size(data.x)",
        "data.x == 'unterminated",
        "data..x",
        "data.x = 1",
        "\u{0}",
        "math.abs(1) == 1",
    ]
    .iter()
    .map(|text| format!("{text:?}: {}", refused(text)))
    .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn length_nodes_depth_and_patterns_are_bounded() {
    let long = format!("data.x == '{}'", "x".repeat(EXPRESSION_CHARS_MAX));
    assert!(refused(&long).contains("2048 characters"), "{}", refused(&long));
    assert!(refused(" ").contains("1 to 2048"));
    let nodes = format!("1 in [{}1]", "1,".repeat(600));
    assert!(refused(&nodes).contains("more than 512 values"), "{}", refused(&nodes));
    let patterns = ["data.x.matches('a')"; 9].join(" || ");
    assert!(refused(&patterns).contains("more than 8 patterns"), "{}", refused(&patterns));
    for deep in [
        format!("{}1{} == 1", "(".repeat(500), ")".repeat(500)),
        format!("{}data.x{}", "!(".repeat(300), ")".repeat(300)),
        format!("{}1{} == 1", "[".repeat(500), "]".repeat(500)),
        format!("1{} == 1", "+1".repeat(500)),
        format!("data{} == 1", ".x".repeat(500)),
        format!("data{} == 1", "[0]".repeat(400)),
        format!("{}true", "true?true:".repeat(150)),
    ] {
        let told = refused(&deep);
        assert!(told.contains("deep"), "{deep}: {told}");
    }
    let wide = ["data.x == 1"; 100].join(" || ");
    assert_eq!(refused(&wide), format!("taken: {wide}"), "many of the same are no depth");
}

#[test]
fn no_text_brings_the_reader_down() {
    for text in
        ["!", "-", "\"", "'''", "//", "\\", "}{", "((((", "a.b.c(", "\u{feff}", "1e999", "0x", "99999999999999999999"]
    {
        let _ = refused(text);
        let _ = refused(&text.repeat(300));
    }
}
