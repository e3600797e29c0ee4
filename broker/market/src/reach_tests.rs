#![allow(clippy::unwrap_used)]

use super::*;

const OWN: &str = "203.0.113.5";
const NOW: UnixSeconds = UnixSeconds(1_900_000_000);

fn provider() -> Address {
    Address::repeat_byte(7)
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct World {
    reach: Reach,
    now: UnixSeconds,
}

impl World {
    fn new() -> Self {
        Self {
            reach: Reach::default(),
            now: NOW,
        }
    }

    fn named(&mut self, at: &str, mapped: Option<&str>) -> Vec<Step> {
        let (own, mapped) = (OWN.parse().unwrap(), mapped.map(endpoint));
        let (draw, now) = (|number| number * 100, self.now);
        self.reach
            .named((provider(), own), endpoint(at), mapped, draw, now)
    }

    /// What is done in the next second.
    fn second(&mut self) -> Vec<Step> {
        self.now = self.now.after(1);
        self.reach.handle_timeout(|number| number * 100, self.now)
    }

    /// Lets so many seconds pass in which nothing is done, and returns what is done in the next.
    fn quiet(&mut self, seconds: u64) -> Vec<Step> {
        for _ in 0..seconds {
            assert_eq!(self.second(), []);
        }
        self.second()
    }
}

fn try_at(at: &str, token: u64) -> Step {
    let to = endpoint(at);
    Step::Try { to, token }
}

fn found(reachability: Option<Reachability>) -> Vec<Step> {
    vec![Step::Found(provider(), reachability)]
}

const DIRECT: Option<Reachability> = Some(Reachability::Direct);
const PUNCHED: Option<Reachability> = Some(Reachability::Punched);

#[test]
fn a_token_that_comes_back_shows_a_direct_way() {
    let mut world = World::new();
    let at = "203.0.113.5:51820";
    assert_eq!(world.named(at, None), [try_at(at, 100)]);
    assert_eq!(world.reach.found(provider()), None);
    assert_eq!(world.second(), [try_at(at, 200)]);
    for wrong in [0, 99, 300] {
        assert_eq!(world.reach.heard(provider(), wrong, world.now), None);
    }
    // A late one is as good as the last.
    let heard = world.reach.heard(provider(), 100, world.now);
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), found(DIRECT));
    assert_eq!(world.reach.heard(provider(), 200, world.now), None);
    // After a while it is tried anew, and what was found stays meanwhile.
    assert_eq!(world.quiet(BETWEEN - 1), [try_at(at, 300)]);
    assert_eq!(world.reach.found(provider()), DIRECT);
    assert_eq!(world.second(), [try_at(at, 400)]);
    assert_eq!(world.second(), [try_at(at, 500)]);
    assert_eq!(world.second(), found(PUNCHED), "it is not reached any more");
}

#[test]
fn whoever_is_not_reached_is_punched_and_tried_again() {
    let mut world = World::new();
    let (at, mapped) = ("203.0.113.5:51820", "203.0.113.5:40123");
    world.named(at, None);
    world.second();
    world.second();
    assert_eq!(world.second(), found(PUNCHED));
    assert_eq!(world.named(at, Some(mapped)), []);
    assert_eq!(world.reach.found(provider()), PUNCHED);
    // Somebody may have opened the port meanwhile.
    assert_eq!(world.quiet(BETWEEN - 1), [try_at(at, 400)]);
    let heard = world.reach.heard(provider(), 400, world.now);
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), found(DIRECT));
}

#[test]
fn nothing_is_tried_through_the_mapping_that_asking_keeps_open() {
    let mut world = World::new();
    let at = "203.0.113.5:51820";
    world.named(at, None);
    world.second();
    world.second();
    world.second();
    assert_eq!(world.named(at, Some(at)), []);
    assert_eq!(world.quiet(3 * BETWEEN), []);
    // With a new connection it is asked no more.
    world.reach.left(provider());
    assert_eq!(world.reach.found(provider()), None);
    assert!(matches!(world.named(at, None)[..], [Step::Try { .. }]));
}

#[test]
fn only_an_agents_own_address_is_tried() {
    let mut world = World::new();
    for elsewhere in ["198.51.100.1:51820", "203.0.113.5:0", "127.0.0.1:53"] {
        assert_eq!(world.named(elsewhere, None), found(None));
        assert_eq!(world.second(), []);
    }
    assert_eq!(world.reach.poll_timeout(), None);
}

#[test]
fn another_endpoint_is_another_trial() {
    let mut world = World::new();
    let (one, other) = ("203.0.113.5:51820", "203.0.113.5:51821");
    assert_eq!(world.named(one, None), [try_at(one, 100)]);
    // No sooner than the next token would have left, however often it is another.
    assert_eq!(world.named(other, None), []);
    assert_eq!(world.reach.heard(provider(), 100, world.now), None);
    assert_eq!(world.second(), [try_at(other, 200)]);
    assert_eq!(world.named(one, None), []);
    assert_eq!(world.named(other, None), []);
    assert_eq!(world.second(), [try_at(other, 300)]);
    assert!(world.reach.heard(provider(), 300, world.now).is_some());
    assert_eq!(world.named(one, None), [try_at(one, 400)]);
}
