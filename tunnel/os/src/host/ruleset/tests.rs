#![allow(clippy::unwrap_used)]
use super::*;

fn plan() -> HostPlan {
    HostPlan {
        interface: "ipsx0".to_owned(),
        inner_v4: "10.98.0.2".parse().unwrap(),
        inner_v6: None,
        gateway: "10.98.0.1".parse().unwrap(),
        endpoints: vec!["192.0.2.1:51820".parse().unwrap()],
        control: vec!["192.0.2.9:8480".parse().unwrap()],
        routes: Vec::new(),
        direct: Vec::new(),
        kill_switch: true,
        resolver: true,
    }
}

/// The expressions of a chain's rules, as text.
fn rules(plan: &HostPlan, chain: &str) -> Vec<String> {
    let rule = |command: &Value| {
        let rule = command.get("add")?.get("rule")?;
        (rule.get("chain")? == chain).then(|| rule["expr"].to_string())
    };
    ruleset("t", 7, plan).iter().filter_map(rule).collect()
}

fn is_verdict(rule: &str, verdict: &str) -> bool {
    rule.contains(&format!("\"{verdict}\":"))
}

#[test]
fn the_last_rule_refuses_everything_unconditionally() {
    for chain in ["output", "forward"] {
        let rules = rules(&plan(), chain);
        let last = rules.last().unwrap();
        assert!(
            is_verdict(last, "reject") && !last.contains("match"),
            "{chain}: {last}"
        );
    }
}

#[test]
fn every_way_out_is_narrow() {
    let mut plan = plan();
    plan.direct = vec!["192.168.0.0/16".parse().unwrap()];
    for rule in rules(&plan, "output") {
        if !is_verdict(&rule, "accept") {
            continue;
        }
        let narrow = [
            "\"lo\"",
            "\"ipsx0\"",
            "nd-neighbor",
            "\"dport\"",
            "192.168.0.0",
        ];
        assert!(narrow.iter().any(|word| rule.contains(word)), "{rule}");
        if rule.contains("192.0.2.") {
            assert!(
                rule.contains(r#""key":"mark"}},"op":"==","right":7"#),
                "{rule}"
            );
        }
    }
}

#[test]
fn questions_for_names_are_decided_before_the_tunnel_and_the_local_network_are_let_through() {
    let mut plan = plan();
    plan.direct = vec!["192.168.0.0/16".parse().unwrap()];
    let rules = rules(&plan, "output");
    let place = |found: &dyn Fn(&&String) -> bool| rules.iter().position(|r| found(&r)).unwrap();
    let refused = place(&|rule| rule.contains("53") && is_verdict(rule, "reject"));
    let asked = place(&|rule| rule.contains("53") && rule.contains("10.98.0.1"));
    let tunnel = place(&|rule| rule.contains("ipsx0") && rule.matches("match").count() == 1);
    let local = place(&|rule| rule.contains("192.168.0.0"));
    assert!(asked < refused && refused < tunnel && refused < local);
    plan.resolver = false;
    assert!(
        !super::tests::rules(&plan, "output")
            .iter()
            .any(|r| r.contains(":53"))
    );
}

#[test]
fn with_prefixes_only_they_are_shut() {
    let mut plan = plan();
    plan.routes = vec![
        "203.0.113.7/24".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ];
    plan.resolver = false;
    for chain in ["output", "forward"] {
        let refused: Vec<_> = rules(&plan, chain)
            .into_iter()
            .filter(|rule| rule.contains("admin-prohibited"))
            .collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(
            refused[0].contains("203.0.113.0")
                && refused[0].contains(r#""op":"!=","right":"ipsx0""#)
        );
        assert!(refused[1].contains("2001:db8::"));
    }
}

#[test]
fn without_kill_switch_nothing_is_refused_to_the_host() {
    let mut plan = plan();
    plan.kill_switch = false;
    assert!(rules(&plan, "output").is_empty() && rules(&plan, "forward").is_empty());
    assert!(!rules(&plan, "inner").is_empty() && !rules(&plan, "mark").is_empty());
}

#[test]
fn a_relay_is_reached_at_any_port_by_the_tunnel_alone() {
    let mut plan = plan();
    plan.endpoints.push("192.0.2.3:0".parse().unwrap());
    let rules = rules(&plan, "output");
    let relay: Vec<_> = rules
        .iter()
        .filter(|rule| rule.contains("192.0.2.3"))
        .collect();
    let [rule] = relay[..] else {
        panic!("{relay:?}");
    };
    assert!(
        is_verdict(rule, "accept") && rule.contains("\"l4proto\""),
        "{rule}"
    );
    assert!(
        rule.contains("\"mark\"") && !rule.contains("dport"),
        "{rule}"
    );
}
