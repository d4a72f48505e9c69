//! Links in memory.

use super::{Call, Content, FakeStore};
use crate::store::StoreError;
use crate::store::links::{Link, LinkId, LinkPlace, LinkSpot, LinkStore, LinkWindow, PutLink};

impl Content {
    fn link_count(&self, org: &str) -> u64 {
        self.links.values().filter(|link| link.org == org).count() as u64
    }

    fn put_link(&mut self, link: &Link, org_max: u64) -> PutLink {
        match self.links.get(&link.id()) {
            Some(there) => PutLink::There(Box::new(there.clone())),
            None if self.link_count(&link.org) >= org_max => PutLink::Full,
            None => {
                self.links.insert(link.id(), link.clone());
                PutLink::New
            }
        }
    }

    fn page_of_links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> (Vec<Link>, bool) {
        let is_there = |link: &&Link| match place {
            LinkPlace::Org => true,
            LinkPlace::From(entity) => link.source == *entity,
            LinkPlace::To(entity) => link.target == *entity,
        };
        let of_type = |link: &&Link| window.link_type.is_none_or(|wanted| link.link_type == wanted);
        let mut all: Vec<&Link> = self.links.values().filter(|link| link.org == org).collect();
        all.retain(|link| is_there(link) && of_type(link) && Some(LinkSpot::of(link)) > window.after);
        all.sort_by_key(|link| LinkSpot::of(link));
        let (mut links, mut held) = (Vec::new(), 0);
        for link in all {
            if links.len() >= window.limit || (held >= window.bytes && !links.is_empty()) {
                return (links, true);
            }
            held += link.metadata.as_ref().map_or(0, String::len);
            links.push(link.clone());
        }
        (links, false)
    }
}

impl LinkStore for FakeStore {
    fn put_links(&self, links: &[Link], org_max: u64) -> Result<Vec<PutLink>, StoreError> {
        self.write(Call::Links, |content| Ok(links.iter().map(|link| content.put_link(link, org_max)).collect()))
    }

    fn remove_link(&self, id: LinkId) -> Result<bool, StoreError> {
        self.write(Call::Links, |content| Ok(content.links.remove(&id).is_some()))
    }

    fn link(&self, id: LinkId) -> Result<Option<Link>, StoreError> {
        self.look(|content| content.links.get(&id).cloned())
    }

    fn links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> Result<(Vec<Link>, bool), StoreError> {
        self.look(|content| content.page_of_links(org, place, window))
    }

    fn link_count(&self, org: &str) -> Result<u64, StoreError> {
        self.look(|content| content.link_count(org))
    }
}
