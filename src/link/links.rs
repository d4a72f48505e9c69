//! The face of links for handlers and for the program around the hub.

use std::sync::Arc;

use super::book::{Created, LinkBook, LinkPage};
use super::find::LinkQuery;
use super::walk::{WalkQuery, Walked};
use super::{Entity, Link, LinkType, NewLink};
use crate::ground::clock::SharedClock;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};

/// The links of an org, to be made, found, walked along and deleted. Cheap to clone.
///
/// ```no_run
/// use tidegate::hub::Hub;
/// use tidegate::link::{Entity, LinkType, NewLink, WalkQuery};
///
/// # async fn example() -> anyhow::Result<()> {
/// let hub = Hub::open_dir("./data")?;
/// let links = hub.links("acme");
/// let (contact, customer) = (Entity::new("crm", "contact", "17"), Entity::new("erp", "customer", "C-9"));
/// links
///     .create(NewLink::new(contact.clone(), customer.clone(), LinkType::Reference).metadata(serde_json::json!({"since": 2024})))
///     .await?;
/// for link in links.outbound(&contact).await? {
///     println!("{} is {}", link.source, link.target);
/// }
/// let reached = links.walk(WalkQuery::from(contact)).await?;
/// println!("{} entities belong together", reached.nodes.len());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Links {
    book: Arc<LinkBook>,
    clock: SharedClock,
    org: Arc<str>,
    by: Arc<str>,
    correlation_id: Option<Arc<str>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("org", &self.org).field("by", &self.by).finish_non_exhaustive()
    }
}

impl Links {
    /// The links of an org, as somebody called `by` makes them.
    #[must_use]
    pub fn new(book: Arc<LinkBook>, clock: SharedClock, org: &str, by: &str) -> Self {
        Self { book, clock, org: org.into(), by: by.into(), correlation_id: None }
    }

    /// The same, in a conversation.
    #[must_use]
    pub fn within(mut self, correlation_id: &str) -> Self {
        self.correlation_id = Some(correlation_id.into());
        self
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LinkBook, &str) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (book, org) = (Arc::clone(&self.book), Arc::clone(&self.org));
        match tokio::task::spawn_blocking(move || work(&book, &org)).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "work on links panicked");
                Err(Problem::new(ProblemKind::Internal, "the work failed; the log of the hub has the cause"))
            }
        }
    }

    fn context(&self) -> WriteContext {
        WriteContext {
            by: self.by.to_string(),
            at: self.clock.now(),
            correlation_id: self.correlation_id.as_deref().map(str::to_owned),
            ip: None,
        }
    }

    /// Makes a link; durable when this returns. The same again answers the one that is there.
    ///
    /// # Errors
    /// As [`LinkBook::create`].
    pub async fn create(&self, link: NewLink) -> Result<Created, Problem> {
        let context = self.context();
        self.blocking(move |book, org| book.create(link, Some(org), context)).await
    }

    /// Makes up to 1,000 links in one commit; an answer each.
    ///
    /// # Errors
    /// As [`LinkBook::create_all`].
    pub async fn create_all(&self, links: Vec<NewLink>) -> Result<Vec<Result<Created, Problem>>, Problem> {
        let context = self.context();
        self.blocking(move |book, org| book.create_all(links, Some(org), &context)).await
    }

    /// The first 1,000 links that go out from an entity; [`find`](Self::find) gives them page by page.
    ///
    /// # Errors
    /// When the entity's name does not fit, or the store fails.
    pub async fn outbound(&self, source: &Entity) -> Result<Vec<Link>, Problem> {
        let query = LinkQuery { source: Some(source.clone()), limit: usize::MAX, ..LinkQuery::default() };
        Ok(self.find(query).await?.links)
    }

    /// The first 1,000 links that lead to an entity.
    ///
    /// # Errors
    /// When the entity's name does not fit, or the store fails.
    pub async fn inbound(&self, target: &Entity) -> Result<Vec<Link>, Problem> {
        let query = LinkQuery { target: Some(target.clone()), limit: usize::MAX, ..LinkQuery::default() };
        Ok(self.find(query).await?.links)
    }

    /// The links between two entities, either way: those from `one` to `other` first.
    ///
    /// # Errors
    /// When a name does not fit, or the store fails.
    pub async fn between(&self, one: &Entity, other: &Entity) -> Result<Vec<Link>, Problem> {
        let ends = (Some(one.clone()), Some(other.clone()));
        let query = LinkQuery { source: ends.0, target: ends.1, both_ways: true, ..LinkQuery::default() };
        Ok(self.find(query).await?.links)
    }

    /// Where links of a type lead from an entity: the first 1,000.
    ///
    /// # Errors
    /// When the entity's name does not fit, or the store fails.
    pub async fn targets(&self, source: &Entity, link_type: LinkType) -> Result<Vec<Entity>, Problem> {
        let source = Some(source.clone());
        let query = LinkQuery { source, link_type: Some(link_type), limit: usize::MAX, ..LinkQuery::default() };
        Ok(self.find(query).await?.links.into_iter().map(|link| link.target).collect())
    }

    /// A page of the links that a look-up asks for.
    ///
    /// # Errors
    /// As [`LinkBook::find`].
    pub async fn find(&self, query: LinkQuery) -> Result<LinkPage, Problem> {
        self.blocking(move |book, org| book.find(org, &query)).await
    }

    /// Walks along links.
    ///
    /// # Errors
    /// As [`LinkBook::walk`].
    pub async fn walk(&self, query: WalkQuery) -> Result<Walked, Problem> {
        self.blocking(move |book, org| book.walk(org, query)).await
    }

    /// A link.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]
    pub async fn get(&self, id: &str) -> Result<Link, Problem> {
        let id = id.to_owned();
        self.blocking(move |book, org| book.get(&id, Some(org))).await
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`]
    pub async fn delete(&self, id: &str) -> Result<(), Problem> {
        let id = id.to_owned();
        self.blocking(move |book, org| book.delete(&id, Some(org))).await
    }
}
