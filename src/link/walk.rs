//! The walk over the graph of links: breadth first, each entity once. A pure machine: it says what to read next, and is
//! told what was there.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Entity, Link, LinkId, LinkType};
use crate::store::links::{LinkPlace, LinkSpot, LinkWindow};

/// Most steps from the start.
pub const DEPTH_MAX: u32 = 16;
/// Steps when nothing is said.
pub const DEPTH_DEFAULT: u32 = 3;
/// Most entities.
pub const NODES_MAX: usize = 1_000;
/// Entities when nothing is said.
pub const NODES_DEFAULT: usize = 100;
/// Links that one walk reads.
pub const LINKS_MAX: usize = 5_000;
/// Links read at once.
const PAGE_LINKS: usize = 100;
/// Bytes of metadata read at once.
const PAGE_BYTES: usize = 1 << 20;

/// Which way links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From source to target.
    #[default]
    Outbound,
    /// From target to source.
    Inbound,
    /// Either way.
    Both,
}

impl Direction {
    /// Every direction.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Both];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Both => "both",
        }
    }
}

/// Where a walk begins and how far it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkQuery {
    /// Its first node.
    pub start: Entity,
    /// Which way.
    pub direction: Direction,
    /// Only along links of this type.
    pub link_type: Option<LinkType>,
    /// Steps, 1 to [`DEPTH_MAX`].
    pub depth_max: u32,
    /// Nodes, 1 to [`NODES_MAX`], the start included.
    pub nodes_max: usize,
}

impl WalkQuery {
    /// A walk from here along every link that goes out, with the usual bounds.
    #[must_use]
    pub fn from(start: Entity) -> Self {
        Self {
            start,
            direction: Direction::default(),
            link_type: None,
            depth_max: DEPTH_DEFAULT,
            nodes_max: NODES_DEFAULT,
        }
    }
}

/// Why a walk ended before there was nothing left to visit within its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It had as many nodes as it may.
    Nodes,
    /// It had read as many links as it may.
    Links,
}

impl Cut {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Links => "links",
        }
    }
}

/// What a walk has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The entities, each with its steps from the start, in the order in which they were met; the start is the first.
    pub nodes: Vec<(Entity, u32)>,
    /// The links between them that were followed, without metadata.
    pub links: Vec<Link>,
    /// Whether it was cut.
    pub cut: Option<Cut>,
}

/// Links to read: those at an entity, one way, after a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which.
    pub place: LinkPlace,
    /// Which part.
    pub window: LinkWindow,
}

/// A node whose links are still to be read.
struct Due {
    node: usize,
    inbound: bool,
    after: Option<LinkSpot>,
}

/// A walk on its way.
pub struct Walk {
    query: WalkQuery,
    walked: Walked,
    known: HashMap<Entity, usize>,
    followed: HashSet<LinkId>,
    due: VecDeque<Due>,
    read: usize,
}

impl Walk {
    /// A walk that stands at its start.
    #[must_use]
    pub fn new(query: WalkQuery) -> Self {
        let mut walk = Self {
            walked: Walked::default(),
            known: HashMap::new(),
            followed: HashSet::new(),
            due: VecDeque::new(),
            read: 0,
            query,
        };
        walk.meet(walk.query.start.clone(), 0);
        walk
    }

    fn meet(&mut self, entity: Entity, depth: u32) {
        let node = self.walked.nodes.len();
        self.known.insert(entity.clone(), node);
        self.walked.nodes.push((entity, depth));
        if depth < self.query.depth_max {
            let ways: &[bool] = match self.query.direction {
                Direction::Outbound => &[false],
                Direction::Inbound => &[true],
                Direction::Both => &[false, true],
            };
            self.due.extend(ways.iter().map(|&inbound| Due { node, inbound, after: None }));
        }
    }

    /// What to read next; none when the walk has ended.
    #[must_use]
    pub fn next(&self) -> Option<Look> {
        if self.walked.cut.is_some() {
            return None;
        }
        let due = self.due.front()?;
        let entity = self.walked.nodes[due.node].0.clone();
        Some(Look {
            place: if due.inbound { LinkPlace::To(entity) } else { LinkPlace::From(entity) },
            window: LinkWindow {
                link_type: self.query.link_type,
                after: due.after,
                limit: PAGE_LINKS,
                bytes: PAGE_BYTES,
            },
        })
    }

    /// Takes in what was read, and whether there is more of it.
    pub fn take(&mut self, links: Vec<Link>, more: bool) {
        let Some(due) = self.due.pop_front() else { return };
        let depth = self.walked.nodes[due.node].1;
        let last = links.last().map(LinkSpot::of);
        for link in links {
            if self.read == LINKS_MAX {
                self.walked.cut = Some(Cut::Links);
                return;
            }
            self.read += 1;
            let other = if due.inbound { &link.source } else { &link.target };
            if !self.known.contains_key(other) {
                if self.walked.nodes.len() >= self.query.nodes_max {
                    self.walked.cut = Some(Cut::Nodes);
                    return;
                }
                self.meet(other.clone(), depth + 1);
            }
            if self.followed.insert(link.id()) {
                self.walked.links.push(Link { metadata: None, ..link });
            }
        }
        if let (true, Some(_)) = (more, last) {
            self.due.push_front(Due { after: last, ..due });
        }
    }

    /// What it has found.
    #[must_use]
    pub fn finish(self) -> Walked {
        self.walked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ground::context::WriteContext;

    fn node(at: usize) -> Entity {
        Entity::new("m", "t", at.to_string())
    }

    fn link(from: usize, to: usize) -> Link {
        Link {
            org: "acme".to_owned(),
            source: node(from),
            target: node(to),
            link_type: LinkType::Reference,
            metadata: Some("{}".to_owned()),
            created: WriteContext::default(),
        }
    }

    /// Walks over links that are held in memory, `page` at a time.
    fn walk(edges: &[(usize, usize)], query: WalkQuery, page: usize) -> Walked {
        let mut walk = Walk::new(query);
        let mut looks = 0;
        while let Some(look) = walk.next() {
            looks += 1;
            assert!(looks < 100_000, "the walk does not end");
            let mut found: Vec<Link> = edges.iter().map(|(from, to)| link(*from, *to)).collect();
            found.retain(|link| match &look.place {
                LinkPlace::From(entity) => link.source == *entity,
                LinkPlace::To(entity) => link.target == *entity,
                LinkPlace::Org => false,
            });
            found.sort_by_key(LinkSpot::of);
            found.dedup();
            found.retain(|link| Some(LinkSpot::of(link)) > look.window.after);
            let more = found.len() > page;
            found.truncate(page);
            walk.take(found, more);
        }
        walk.finish()
    }

    fn from(start: usize) -> WalkQuery {
        WalkQuery::from(node(start))
    }

    fn met(walked: &Walked) -> Vec<(String, u32)> {
        walked.nodes.iter().map(|(entity, depth)| (entity.id.clone(), *depth)).collect()
    }

    #[test]
    fn a_ring_is_walked_once() {
        let walked = walk(&[(0, 1), (1, 2), (2, 0)], WalkQuery { depth_max: 16, ..from(0) }, 10);
        assert_eq!(met(&walked), [("0".into(), 0), ("1".into(), 1), ("2".into(), 2)]);
        assert_eq!((walked.links.len(), walked.cut), (3, None));
        assert!(walked.links.iter().all(|link| link.metadata.is_none()));
    }

    #[test]
    fn the_depth_ends_it_and_the_direction_leads_it() {
        let line = [(0, 1), (1, 2), (2, 3), (3, 4)];
        assert_eq!(met(&walk(&line, WalkQuery { depth_max: 2, ..from(0) }, 10)).len(), 3);
        assert_eq!(met(&walk(&line, WalkQuery { direction: Direction::Inbound, ..from(4) }, 10)).len(), 4);
        let both = walk(&line, WalkQuery { direction: Direction::Both, depth_max: 1, ..from(2) }, 10);
        assert_eq!((both.nodes.len(), both.links.len()), (3, 2));
    }

    #[test]
    fn a_walk_that_is_cut_says_so_and_shows_no_link_without_its_ends() {
        let star: Vec<_> = (1..300).map(|to| (0, to)).collect();
        let walked = walk(&star, WalkQuery { nodes_max: 120, ..from(0) }, 7);
        assert_eq!((walked.nodes.len(), walked.links.len(), walked.cut), (120, 119, Some(Cut::Nodes)));
        let dense: Vec<_> =
            (0..90).flat_map(|from| (0..90).filter(move |to| *to != from).map(move |to| (from, to))).collect();
        let walked = walk(&dense, from(0), 50);
        assert_eq!((walked.nodes.len(), walked.links.len(), walked.cut), (90, LINKS_MAX, Some(Cut::Links)));
    }

    proptest! {
        #[test]
        fn every_entity_within_reach_is_met_once_at_its_smallest_distance(
            edges in prop::collection::vec((0_usize..12, 0_usize..12), 0..40), depth_max in 1_u32..6, page in 1_usize..5, way in 0_usize..3
        ) {
            let edges: Vec<_> = edges.into_iter().filter(|(from, to)| from != to).collect();
            let direction = Direction::ALL[way];
            let walked = walk(&edges, WalkQuery { depth_max, direction, ..from(0) }, page);
            // Distances by relaxation.
            let mut distance = vec![u32::MAX; 12];
            distance[0] = 0;
            for _ in 0..12 {
                for (from, to) in &edges {
                    let mut relax = |a: usize, b: usize| distance[b] = distance[b].min(distance[a].saturating_add(1));
                    if direction != Direction::Inbound { relax(*from, *to); }
                    if direction != Direction::Outbound { relax(*to, *from); }
                }
            }
            let mut wanted: Vec<_> = (0..12).filter(|at| distance[*at] <= depth_max).map(|at| (at.to_string(), distance[at])).collect();
            let mut found = met(&walked);
            wanted.sort();
            found.sort();
            prop_assert_eq!(found, wanted);
            let ids: HashSet<_> = walked.links.iter().map(Link::id).collect();
            prop_assert_eq!(ids.len(), walked.links.len());
        }
    }
}
