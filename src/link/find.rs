//! What a look-up asks for, and the cursor of its pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::new::check_entity;
use super::{Entity, LinkId, LinkType};
use crate::ground::error::{Problem, ProblemKind};
use crate::store::links::{LinkPlace, LinkSpot};

/// A look-up of links. With one end it finds what goes out from it or leads to it, with both the links of the pair, with
/// none every link of the org.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkQuery {
    /// Where they go out from.
    pub source: Option<Entity>,
    /// Where they lead to.
    pub target: Option<Entity>,
    /// Only this type.
    pub link_type: Option<LinkType>,
    /// With both ends: also those that go the other way.
    pub both_ways: bool,
    /// Goes on where a page ended.
    pub cursor: Option<String>,
    /// Most links of a page.
    pub limit: usize,
}

/// How a look-up is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// At most these, by id.
    Pair(Vec<LinkId>),
    /// A page of a list.
    List(LinkPlace, Option<LinkSpot>),
}

fn refuse(name: &str, limit: &str, sent: impl std::fmt::Display) -> Problem {
    Problem::field(name, limit, sent).as_kind(ProblemKind::InvalidParameter)
}

impl LinkQuery {
    /// How it is answered for an org.
    ///
    /// # Errors
    /// [`ProblemKind::InvalidParameter`]
    pub(super) fn plan(&self, org: &str) -> Result<Plan, Problem> {
        let checked = |prefix: &str, entity: &Option<Entity>| match entity {
            Some(entity) => {
                check_entity(prefix, entity).map_err(|problem| problem.as_kind(ProblemKind::InvalidParameter))
            }
            None => Ok(()),
        };
        checked("source_", &self.source)?;
        checked("target_", &self.target)?;
        let place = match (&self.source, &self.target) {
            (Some(source), Some(target)) => {
                if let Some(cursor) = &self.cursor {
                    return Err(refuse("cursor", "none beside both ends: a pair has one page", cursor));
                }
                return Ok(Plan::Pair(self.pair(org, source, target)));
            }
            _ if self.both_ways => return Err(refuse("both_ways", "only beside both ends", true)),
            (Some(source), None) => LinkPlace::From(source.clone()),
            (None, Some(target)) => LinkPlace::To(target.clone()),
            (None, None) => LinkPlace::Org,
        };
        let after = self.cursor.as_deref().map(|text| self.read_cursor(org, text)).transpose()?;
        Ok(Plan::List(place, after))
    }

    /// The ids of the links that a pair can have, those out first, each way by type.
    fn pair(&self, org: &str, source: &Entity, target: &Entity) -> Vec<LinkId> {
        let types = || LinkType::ALL.into_iter().filter(|one| self.link_type.is_none_or(|wanted| wanted == *one));
        let out = types().map(|one| LinkId::of(org, source, target, one));
        let back = types().filter(|_| self.both_ways).map(|one| LinkId::of(org, target, source, one));
        out.chain(back).collect()
    }

    /// A number for what is asked for, so that a cursor is not used for another question.
    fn mark(&self, org: &str) -> u32 {
        let texts = [&self.source, &self.target].map(|end| match end {
            Some(Entity { module, entity_type, id }) => [module.as_str(), entity_type, id],
            None => ["", "", ""],
        });
        let kind = self.link_type.map_or("", LinkType::as_str);
        let all = [org, kind].into_iter().chain(texts.into_iter().flatten());
        all.fold(0, |mark, text| crc32c::crc32c_append(crc32c::crc32c_append(mark, text.as_bytes()), &[0xff]))
    }

    /// The cursor of a page that ended here.
    pub(super) fn cursor_after(&self, org: &str, spot: LinkSpot) -> String {
        let mut bytes = vec![spot.link_type.byte()];
        bytes.extend_from_slice(&spot.id.0);
        bytes.extend_from_slice(&self.mark(org).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read_cursor(&self, org: &str, text: &str) -> Result<LinkSpot, Problem> {
        let parts = || {
            let bytes: [u8; 21] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
            let (link_type, rest) = bytes.split_first()?;
            let (id, mark) = rest.split_first_chunk::<16>()?;
            let own = *mark == self.mark(org).to_be_bytes();
            let link_type = LinkType::of_byte(*link_type).filter(|_| own)?;
            Some(LinkSpot { link_type, id: LinkId(*id) })
        };
        parts().ok_or_else(|| refuse("cursor", "one that this look-up has given out, unchanged", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(id: &str) -> Entity {
        Entity::new("crm", "contact", id)
    }

    #[test]
    fn a_pair_is_looked_up_by_the_ids_it_can_have() {
        let query = LinkQuery { source: Some(entity("a")), target: Some(entity("b")), ..LinkQuery::default() };
        let Ok(Plan::Pair(ids)) = query.plan("acme") else { panic!("a pair") };
        assert_eq!(ids, LinkType::ALL.map(|one| LinkId::of("acme", &entity("a"), &entity("b"), one)));
        let both = LinkQuery { both_ways: true, link_type: Some(LinkType::Cascade), ..query.clone() };
        let back = LinkId::of("acme", &entity("b"), &entity("a"), LinkType::Cascade);
        assert_eq!(both.plan("acme"), Ok(Plan::Pair(vec![ids[1], back])));
        assert!(LinkQuery { cursor: Some("x".to_owned()), ..query }.plan("acme").is_err());
    }

    #[test]
    fn a_cursor_belongs_to_its_question() {
        let query = LinkQuery { source: Some(entity("a")), ..LinkQuery::default() };
        let spot = LinkSpot { link_type: LinkType::Cascade, id: LinkId([7; 16]) };
        let cursor = query.cursor_after("acme", spot);
        let plan = |query: &LinkQuery, org: &str| LinkQuery { cursor: Some(cursor.clone()), ..query.clone() }.plan(org);
        assert_eq!(plan(&query, "acme"), Ok(Plan::List(LinkPlace::From(entity("a")), Some(spot))));
        let others = [
            LinkQuery { source: Some(entity("b")), ..query.clone() },
            LinkQuery { source: None, target: Some(entity("a")), ..query.clone() },
            LinkQuery { link_type: Some(LinkType::Cascade), ..query.clone() },
            LinkQuery::default(),
        ];
        for other in others {
            assert_eq!(plan(&other, "acme").expect_err("is refused").field.as_deref(), Some("cursor"));
        }
        assert!(plan(&query, "other").is_err());
        for bad in ["", "!", "AAAA", &format!("{cursor}A")] {
            let query = LinkQuery { cursor: Some(bad.to_owned()), ..query.clone() };
            assert_eq!(query.plan("acme").expect_err("is refused").kind, ProblemKind::InvalidParameter, "{bad}");
        }
    }

    #[test]
    fn an_end_that_does_not_fit_is_named() {
        let query = LinkQuery { target: Some(Entity::new("crm", "", "1")), ..LinkQuery::default() };
        assert_eq!(query.plan("acme").expect_err("is refused").field.as_deref(), Some("target_type"));
        let query = LinkQuery { both_ways: true, ..LinkQuery::default() };
        assert_eq!(query.plan("acme").expect_err("is refused").field.as_deref(), Some("both_ways"));
    }
}
