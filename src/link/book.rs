//! Links on the store. Everything here blocks.

use std::sync::Arc;

use super::find::Plan;
use super::new::check_entity;
use super::walk::{DEPTH_MAX, NODES_MAX, Walk, WalkQuery, Walked};
use super::{Link, LinkId, LinkQuery, NewLink};
use crate::event::json::same_json;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::store::links::{LinkSpot, LinkWindow, PutLink};
use crate::store::{LinkStore, StoreError, store_problem};

/// Most links that are made at once.
pub const BATCH_LINKS_MAX: usize = 1_000;
/// Most links of a page.
pub const PAGE_LINKS_MAX: usize = 1_000;
/// Bytes of metadata after which a page ends.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// What came of making a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The link as it is kept.
    pub link: Link,
    /// Whether it was made now; else it was there before.
    pub new: bool,
}

/// A page of links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPage {
    /// The links.
    pub links: Vec<Link>,
    /// The next page begins here.
    pub next: String,
    /// Whether there are more.
    pub has_more: bool,
}

/// The links of a hub.
pub struct LinkBook {
    store: Arc<dyn LinkStore>,
    org_max: u64,
}

impl std::fmt::Debug for LinkBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkBook").field("org_max", &self.org_max).finish_non_exhaustive()
    }
}

fn failed(error: StoreError) -> Problem {
    store_problem(&error)
}

impl LinkBook {
    /// The links of a store, of which an org may have so many.
    #[must_use]
    pub fn new(store: Arc<dyn LinkStore>, org_max: u64) -> Self {
        Self { store, org_max }
    }

    /// Makes a link, or answers the one that is there (LK-2).
    ///
    /// # Errors
    /// When a field does not fit; [`ProblemKind::Conflict`] when it is there with other metadata, or the org has as many
    /// links as it may; when the store fails, and then making it again tells.
    pub fn create(&self, new: NewLink, confined_to: Option<&str>, context: WriteContext) -> Result<Created, Problem> {
        let mut made = self.create_all(vec![new], confined_to, &context)?;
        made.pop().unwrap_or_else(|| Err(Problem::new(ProblemKind::Internal, "no answer for the link")))
    }

    /// Makes up to [`BATCH_LINKS_MAX`] links in one commit; an answer each. One that is refused keeps none of the others out.
    ///
    /// # Errors
    /// When there are too many, or the store fails.
    pub fn create_all(
        &self,
        new: Vec<NewLink>,
        confined_to: Option<&str>,
        context: &WriteContext,
    ) -> Result<Vec<Result<Created, Problem>>, Problem> {
        if new.len() > BATCH_LINKS_MAX {
            return Err(Problem::field("links", format!("at most {BATCH_LINKS_MAX} at once"), new.len()));
        }
        let checked: Vec<_> = new.into_iter().map(|new| new.checked(confined_to, context.clone())).collect();
        let links: Vec<Link> = checked.iter().filter_map(|one| one.as_ref().ok()).cloned().collect();
        let mut put = match links.as_slice() {
            [] => Vec::new(),
            links => self.store.put_links(links, self.org_max).map_err(failed)?,
        }
        .into_iter();
        let answer = |link: Link| match put.next() {
            Some(PutLink::New) => Ok(Created { link, new: true }),
            Some(PutLink::There(there)) => known(&link, *there),
            Some(PutLink::Full) => {
                let detail = format!("an org has at most {} links (links.per_org_max)", self.org_max);
                Err(Problem::new(ProblemKind::Conflict, detail))
            }
            None => Err(Problem::new(ProblemKind::Internal, "no answer for the link")),
        };
        let mut answer = answer;
        Ok(checked.into_iter().map(|one| one.and_then(&mut answer)).collect())
    }

    /// A link that the principal may see.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for one of another org.
    pub fn get(&self, id: &str, confined_to: Option<&str>) -> Result<Link, Problem> {
        let found = match LinkId::parse(id) {
            Some(id) => self.store.link(id).map_err(failed)?,
            None => None,
        };
        let visible = found.filter(|link| confined_to.is_none_or(|org| org == link.org));
        visible.ok_or_else(|| Problem::not_found("link", id))
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]: also for one of another org.
    pub fn delete(&self, id: &str, confined_to: Option<&str>) -> Result<(), Problem> {
        let link = self.get(id, confined_to)?;
        match self.store.remove_link(link.id()).map_err(failed)? {
            true => Ok(()),
            false => Err(Problem::not_found("link", id)),
        }
    }

    /// A page of the links that a look-up asks for.
    ///
    /// # Errors
    /// [`ProblemKind::InvalidParameter`] when a part of the question does not fit, or the cursor is of another one.
    pub fn find(&self, org: &str, query: &LinkQuery) -> Result<LinkPage, Problem> {
        let (place, after) = match query.plan(org)? {
            Plan::Pair(ids) => {
                let found = ids.into_iter().map(|id| self.store.link(id).map_err(failed));
                let links = found.filter_map(Result::transpose).collect::<Result<_, _>>()?;
                return Ok(LinkPage { links, next: String::new(), has_more: false });
            }
            Plan::List(place, after) => (place, after),
        };
        let window = LinkWindow {
            link_type: query.link_type,
            after,
            limit: query.limit.clamp(1, PAGE_LINKS_MAX),
            bytes: PAGE_BYTES_MAX,
        };
        let (links, has_more) = self.store.links(org, &place, window).map_err(failed)?;
        let last = links.last().map(|link| query.cursor_after(org, LinkSpot::of(link)));
        let next = last.or_else(|| query.cursor.clone()).unwrap_or_default();
        Ok(LinkPage { links, next, has_more })
    }

    /// Walks along links (LK-6).
    ///
    /// # Errors
    /// [`ProblemKind::InvalidParameter`] when the start or a bound does not fit.
    pub fn walk(&self, org: &str, query: WalkQuery) -> Result<Walked, Problem> {
        let refuse = |problem: Problem| problem.as_kind(ProblemKind::InvalidParameter);
        check_entity("", &query.start).map_err(refuse)?;
        if !(1..=DEPTH_MAX).contains(&query.depth_max) {
            return Err(refuse(Problem::field("depth", format!("1 to {DEPTH_MAX}"), query.depth_max)));
        }
        if !(1..=NODES_MAX).contains(&query.nodes_max) {
            return Err(refuse(Problem::field("limit", format!("1 to {NODES_MAX}"), query.nodes_max)));
        }
        let mut walk = Walk::new(query);
        while let Some(look) = walk.next() {
            let (links, more) = self.store.links(org, &look.place, look.window).map_err(failed)?;
            walk.take(links, more);
        }
        Ok(walk.finish())
    }

    /// How many links an org has.
    ///
    /// # Errors
    /// When the store fails.
    pub fn count(&self, org: &str) -> Result<u64, Problem> {
        self.store.link_count(org).map_err(failed)
    }
}

/// What is answered for a link that was there before (LK-2).
fn known(wanted: &Link, there: Link) -> Result<Created, Problem> {
    let same = match (&wanted.metadata, &there.metadata) {
        (Some(wanted), Some(there)) => same_json(wanted.as_bytes(), there.as_bytes()),
        (wanted, there) => wanted == there,
    };
    if same {
        return Ok(Created { link: there, new: false });
    }
    let mut problem =
        Problem::new(ProblemKind::Conflict, "the link is there with other metadata; delete it to make it anew");
    problem.field = Some("metadata".to_owned());
    Err(problem.with("link_id", there.id().to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::link::{Entity, LinkType};
    use crate::store::fake::FakeStore;

    fn book() -> LinkBook {
        LinkBook::new(FakeStore::new(10), 3)
    }

    fn new(id: &str) -> NewLink {
        NewLink::new(Entity::new("crm", "contact", id), Entity::new("erp", "customer", "1"), LinkType::Reference)
    }

    fn make(book: &LinkBook, new: NewLink) -> Result<Created, Problem> {
        book.create(new, Some("acme"), WriteContext::default())
    }

    #[test]
    fn the_same_link_again_is_the_one_that_is_there_and_other_metadata_a_conflict() {
        let book = book();
        let first = make(&book, new("1").metadata(json!({ "a": 1, "b": 2 }))).expect("is made");
        assert!(first.new);
        let again = make(&book, new("1").metadata(json!({ "b": 2, "a": 1 }))).expect("is there");
        assert_eq!(again, Created { new: false, ..first.clone() });
        for other in [new("1"), new("1").metadata(json!({ "a": 2, "b": 2 }))] {
            let problem = make(&book, other).expect_err("a conflict");
            assert_eq!(problem.kind, ProblemKind::Conflict);
            assert_eq!(problem.extra["link_id"], first.link.id().to_string());
        }
        assert_eq!(book.get(&first.link.id().to_string(), Some("acme")), Ok(first.link));
    }

    #[test]
    fn of_many_links_each_has_its_own_answer_and_the_org_its_bound() {
        let book = book();
        let wanted = vec![new("1"), new(""), new("1"), new("2"), new("3"), new("4")];
        let answers = book.create_all(wanted, Some("acme"), &WriteContext::default()).expect("answers");
        let told: Vec<_> = answers
            .iter()
            .map(|answer| match answer {
                Ok(created) => if created.new { "new" } else { "there" }.to_owned(),
                Err(problem) => problem.kind.slug().to_owned(),
            })
            .collect();
        assert_eq!(told, ["new", "invalid-field", "there", "new", "new", "conflict"]);
        assert_eq!(book.count("acme"), Ok(3));
        let elsewhere = book.create(new("4"), Some("other"), WriteContext::default()).expect("another org");
        assert_eq!(book.count("acme"), Ok(3));
        book.delete(&elsewhere.link.id().to_string(), Some("acme")).expect_err("not theirs");
        book.delete(&elsewhere.link.id().to_string(), None).expect("an operator's");
        assert!(book.create_all(vec![new("9"); BATCH_LINKS_MAX + 1], None, &WriteContext::default()).is_err());
    }
}
