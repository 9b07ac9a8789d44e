use super::*;
use serde_json::Value as Json;
use std::time::{Duration, Instant, UNIX_EPOCH};

fn tokens() -> SpecialTokens {
    SpecialTokens::default()
        .with("bos_token", "<s>")
        .with("eos_token", "</s>")
}

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source, &tokens()).unwrap()
}

fn options(add_generation_prompt: bool) -> RenderOptions {
    let mut options = RenderOptions::default();
    options.add_generation_prompt = add_generation_prompt;
    options
}

fn render(source: &str) -> Result<String, TokenizerError> {
    compile(source).render(&[Message::user("hello")], &RenderOptions::default())
}

fn template_error(result: Result<String, TokenizerError>) -> String {
    match result {
        Err(TokenizerError::Template(text)) => text,
        other => panic!("expected a template error, got {other:?}"),
    }
}

/// Templates in the styles that published models use, rendered as Jinja2 renders them.
#[test]
fn renders_as_the_reference_does() {
    let expected: Json = serde_json::from_str(include_str!("cases/expected.json")).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let source = match case["template"].as_str().unwrap() {
            "header_style" => include_str!("cases/header_style.jinja"),
            "chatml" => include_str!("cases/chatml.jinja"),
            "inst" => include_str!("cases/inst.jinja"),
            "turns" => include_str!("cases/turns.jinja"),
            "dialect" => include_str!("cases/dialect.jinja"),
            "generation" => include_str!("cases/generation.jinja"),
            other => panic!("unknown template {other}"),
        };
        let template =
            compile(source).with_clock(|| UNIX_EPOCH + Duration::from_secs(1_721_995_509));
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let agp = case["add_generation_prompt"].as_bool().unwrap();
        let result = template.render(&messages, &options(agp));
        match case["text"].as_str() {
            Some(text) => {
                let found = result.unwrap_or_else(|e| panic!("{e} in {case}"));
                assert_eq!(found, text, "{case}");
            }
            None => {
                let error = template_error(result);
                assert!(error.contains(case["error"].as_str().unwrap()), "{error}");
            }
        }
    }
}

#[test]
fn a_template_that_does_not_compile_names_its_line() {
    let error = ChatTemplate::compile("fine\n{% for %}", &tokens()).unwrap_err();
    assert!(error.to_string().contains("chat_template:2"), "{error}");
    assert!(ChatTemplate::compile("{% endif %}", &tokens()).is_err());
    assert!(ChatTemplate::compile("{{ 'open", &tokens()).is_err());
}

#[test]
fn what_is_not_there_is_an_error_or_empty_as_in_jinja() {
    assert_eq!(render("[{{ pad_token }}]").unwrap(), "[]");
    template_error(render("{{ '' + pad_token }}"));
    template_error(render("{{ missing.attribute }}"));
    template_error(render("{{ nothing() }}"));
    template_error(render("{{ messages | unheard_of }}"));
    template_error(render("{{ strftime_now('%Q') }}"));
    template_error(render("{{ missing | tojson }}"));
}

#[test]
fn no_template_reaches_outside() {
    for source in [
        "{% include 'chat_template' %}",
        "{% include '/etc/passwd' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{{ ''.__class__ }}{{ ''.__class__.__mro__ }}",
    ] {
        if let Ok(template) = ChatTemplate::compile(source, &tokens()) {
            template_error(template.render(&[Message::user("x")], &RenderOptions::default()));
        }
    }
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let start = Instant::now();
    for source in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | tojson }}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
    ] {
        template_error(render(source));
    }
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("-", "")] {
        let source = format!("{{{{ {}1{} }}}}", open.repeat(5_000), close.repeat(5_000));
        if let Ok(template) = ChatTemplate::compile(&source, &tokens()) {
            let _ = template.render(&[], &RenderOptions::default());
        }
    }
    let blocks = "{% if true %}".repeat(5_000) + &"{% endif %}".repeat(5_000);
    let _ = ChatTemplate::compile(&blocks, &tokens());
}

#[test]
fn a_long_conversation_fits_the_steps() {
    let messages: Vec<Message> = (0..2_000)
        .map(|i| match i % 2 {
            0 => Message::user("question"),
            _ => Message::assistant("answer"),
        })
        .collect();
    for source in [
        include_str!("cases/chatml.jinja"),
        include_str!("cases/turns.jinja"),
        include_str!("cases/header_style.jinja"),
    ] {
        compile(source)
            .render(&messages, &RenderOptions::default())
            .unwrap();
    }
}

#[test]
fn what_a_message_says_is_never_a_template() {
    let message = Message::user("{{ bos_token }}{% raise %}{# gone #}");
    let text = compile("{{ messages[0].content }}")
        .render(std::slice::from_ref(&message), &RenderOptions::default())
        .unwrap();
    assert_eq!(text, message.content);
}

#[test]
fn shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ChatTemplate>();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]
    #[test]
    fn no_text_makes_it_panic(source in "(\\{\\{|\\}\\}|\\{%|%\\}|-| |for|if|in|set|messages|\\||tojson|\\[|\\]|'|\"|[a-z0-9.()~+*]){0,40}") {
        if let Ok(template) = ChatTemplate::compile(&source, &tokens()) {
            let _ = template.render(&[Message::user("x")], &RenderOptions::default());
        }
    }

    #[test]
    fn json_is_what_a_json_reader_reads(text in proptest::prelude::any::<String>(), number in proptest::prelude::any::<i64>()) {
        let json = compile("{{ [messages[0].content, messages[0].role | int] | tojson }}")
            .render(&[Message::new(number.to_string(), text.clone())], &RenderOptions::default())
            .unwrap();
        let read: (String, i64) = serde_json::from_str(&json).unwrap();
        proptest::prop_assert_eq!(read, (text, number));
    }
}

#[test]
fn nothing_nests_without_bound() {
    for source in [
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.me = [{'a': ns}] %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.me = ns if true else 1 %}{{ ns ~ '' }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] | reverse %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set (ns.x, y) = ([ns.x], 1) %}{% endfor %}",
    ] {
        // Some are refused by the compiler already.
        if let Ok(template) = ChatTemplate::compile(source, &tokens()) {
            template_error(template.render(&[], &RenderOptions::default()));
        }
    }
    let range =
        "{% set ns = namespace() %}{% set ns.x = range(3) %}{{ ns.x | join }}{{ ns.x | join }}";
    assert_eq!(render(range).unwrap(), "012012");
    // Conversations do fit.
    let kept = "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.all | tojson }}";
    assert_eq!(
        render(kept).unwrap(),
        r#"[{"role": "user", "content": "hello"}]"#
    );
}

/// Each of these has the renderer's lexer and a simpler one disagree on what is a tag.
#[test]
fn no_spelling_gets_past_the_check_of_namespaces() {
    let grow = "{% set ns = namespace(x=0) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}x";
    for source in [
        format!("{{#}} {{{{ ' #}}{grow}{{# ' }}}} #}}"),
        format!("{{#}}{grow}{{# #}}"),
        format!("{{# {{{{ ' #}}{grow}{{# ' }}}} #}}"),
        format!("{{% raw %}}{{{{ ' {{%-endraw-%}}{grow}"),
        format!("{{{{ '\\\\' }}}}{grow}{{{{ '\\'' }}}}"),
        grow.replace("set ns", "set\tns"),
        grow.replace("set ns.x =", "set ns . x="),
        grow.replace("[ns.x] %", "[ns.x]), (1 %"),
        grow.replace("set ns.x = [ns.x]", "set ns.x, y = [ns.x], 1"),
        grow.replace("set ns.x = [ns.x]", "do __assign(ns, 'x', [ns.x])"),
    ] {
        if let Ok(template) = ChatTemplate::compile(&source, &tokens()) {
            let _ = template.render(&[], &RenderOptions::default());
        }
    }
    assert!(template_error(render(grow)).contains("nested deeper"));
}

#[test]
fn shared_values_are_not_looked_at_for_ever() {
    let start = Instant::now();
    for grow in ["[ns.x,ns.x]", "{'a':ns.x,'b':ns.x}"] {
        let source = format!(
            "{{% set ns = namespace(x=1) %}}{{% for i in range(31) %}}{{% set ns.x={grow} %}}{{% endfor %}}"
        );
        assert!(template_error(render(&source)).contains("10000000 steps"));
    }
    // Nor is a list that is copied at every turn.
    let source = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = ns.x + [i] %}{% endfor %}";
    assert!(template_error(render(source)).contains("10000000 steps"));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

/// The deepest values that fit the bounds are printed, compared and dropped without a crash.
#[test]
fn values_nested_without_a_namespace_fit_the_stack() {
    let repeat = |text: &str, used: usize| text.repeat((MAX_NESTING - used) / nesting(text));
    let sets = |n: usize| repeat("{%set x=[x]%}", n);
    for use_ in [
        "",
        "{{ x }}",
        "{{ x ~ '' }}",
        "{{ x == y }}",
        "{{ x | tojson }}",
        "{{ [x]|sort }}",
    ] {
        let _ = render(&format!(
            "{{% set x = 1 %}}{}{{% set y = [x] %}}{use_}",
            sets(20)
        ));
        let calls = format!(
            "{{% macro f(x) %}}{}{use_}{{{{ f(x) }}}}{{% endmacro %}}{{{{ f(1) }}}}",
            sets(40)
        );
        template_error(render(&calls));
        let brackets = format!(
            "{{% for i in [1] recursive %}}{{% set x = i %}}{}{use_}{{{{ loop([x]) }}}}{{% endfor %}}",
            sets(40)
        );
        template_error(render(&brackets));
    }
    for chain in ["~1", ".a", " and 1", "-1", " if 1 else 1"] {
        let source = format!(
            "{{{{ x{} }}}}",
            chain.repeat((MAX_SOURCE - 100) / chain.len())
        );
        if let Ok(template) = ChatTemplate::compile(&source, &tokens()) {
            let _ = template.render(&[], &RenderOptions::default());
        }
    }
    let branches = "{%elif x%}".repeat(6_000);
    let _ = ChatTemplate::compile(&format!("{{% if x %}}{branches}{{% endif %}}"), &tokens());
}

#[test]
fn a_template_of_unheard_of_size_is_refused() {
    let refused = |source: String| {
        ChatTemplate::compile(&source, &tokens())
            .unwrap_err()
            .to_string()
    };
    assert!(refused("x".repeat(MAX_SOURCE + 1)).contains("bytes"));
    assert!(refused(format!("{{{{ {} }}}}", "a|b".repeat(5_000))).contains("brackets"));
    assert!(refused(format!("{{{{ x{} }}}}", "~1".repeat(9_000))).contains("operators"));
    compile(&"{{ x }}{% if x %}{% endif %}\n".repeat(2_000));
}

#[test]
fn namespaces_work_as_in_jinja() {
    for (source, text) in [
        (
            "{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = 3 %}{{ ns.a + ns.b + ns['c'] }}",
            "6",
        ),
        (
            "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}",
            "12",
        ),
        (
            "{% set ns = namespace() %}{% set (b, ns.a) = (1, 2) %}{{ ns.a }}{{ b }}",
            "21",
        ),
        (
            "{% set ns = namespace() %}{% set ns.a | upper %}x{{ 1 }}\n{% endset %}\n[{{ ns.a }}]",
            "[X1\n]",
        ),
        (
            "{% set ns = namespace() %}{% set ns.a = 1, 2 %}{{ ns.a | length }}",
            "2",
        ),
        (
            "{% set ns = namespace() %}a\n{%- set ns.a = 1 -%}\nb{% for k, v in ns.items() %}{{ k }}{{ v }}{% endfor %}",
            "aba1",
        ),
        (
            "{{ namespace(a=1) is mapping }}{{ ns is defined }}",
            "TrueFalse",
        ),
    ] {
        assert_eq!(render(source).unwrap(), text, "{source}");
    }
    assert!(template_error(render("{% set x = 1 %}{% set x.a = 1 %}")).contains("can only assign"));
}

#[test]
fn numbers_print_as_in_python() {
    assert_eq!(
        render("{{ 1e20 }} {{ 1.5 }} {{ 2.0 }} {{ [1e-5, 1e20] | tojson }} {{ 10 ** 18 }}")
            .unwrap(),
        "1e+20 1.5 2.0 [1e-05, 1e+20] 1000000000000000000"
    );
    template_error(render("{{ 'x'.ljust(3) }}"));
}
