//! The port of links (LNK-1): what connects an entity of one module with an entity of another.
//!
//! A link's id is made of what it connects, so that the same link cannot be there twice and the links of a pair are found
//! without looking through those of either end.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::StoreError;
use crate::ground::codec::{self, CodecError};
use crate::ground::context::WriteContext;

/// Version of [`Link`].
const VERSION: u8 = 1;
/// What the text of an id starts with.
const ID_PREFIX: &str = "lnk_";

/// One end of a link. The texts hold no control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entity {
    /// The module it belongs to, such as `crm`.
    pub module: String,
    /// What it is there, such as `contact`.
    pub entity_type: String,
    /// Which one.
    pub id: String,
}

impl Entity {
    /// An entity.
    pub fn new(module: impl Into<String>, entity_type: impl Into<String>, id: impl Into<String>) -> Self {
        Self { module: module.into(), entity_type: entity_type.into(), id: id.into() }
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.module, self.entity_type, self.id)
    }
}

/// What a link says of its two ends. The hub keeps it and acts on none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkType {
    /// The source refers to the target.
    Reference,
    /// What happens to the source is to happen to the target.
    Cascade,
    /// The source is the root of the aggregate that the target is part of.
    AggregateRoot,
}

impl LinkType {
    /// Every type, in the order in which lists have them.
    pub const ALL: [Self; 3] = [Self::Reference, Self::Cascade, Self::AggregateRoot];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cascade => "cascade",
            Self::AggregateRoot => "aggregate_root",
        }
    }

    /// Its byte in keys. Never changes.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Reference => 1,
            Self::Cascade => 2,
            Self::AggregateRoot => 3,
        }
    }

    /// The type of a byte.
    #[must_use]
    pub fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.byte() == byte)
    }
}

/// The id of a link: 128 bits of the SHA-256 of org, ends and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub [u8; 16]);

impl LinkId {
    /// The id of the link that connects these.
    #[must_use]
    pub fn of(org: &str, source: &Entity, target: &Entity, link_type: LinkType) -> Self {
        let mut hash = Sha256::new();
        for text in
            [org, &source.module, &source.entity_type, &source.id, &target.module, &target.entity_type, &target.id]
        {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.update([link_type.byte()]);
        let hash: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }

    /// The id of a text, as [`Display`](fmt::Display) writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(ID_PREFIX)?;
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).ok()?;
        (Self(id).to_string() == text).then_some(Self(id))
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ID_PREFIX}{}", hex::encode(self.0))
    }
}

/// A link as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The tenant.
    pub org: String,
    /// Where it goes out from.
    pub source: Entity,
    /// Where it leads to.
    pub target: Entity,
    /// What it says.
    pub link_type: LinkType,
    /// A JSON object as it came in, if there is one.
    pub metadata: Option<String>,
    /// Who made it, when, from where (EVT-5).
    pub created: WriteContext,
}

impl Link {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> LinkId {
        LinkId::of(&self.org, &self.source, &self.target, self.link_type)
    }

    /// Its bytes on disk.
    ///
    /// # Errors
    /// A mistake of the program.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(VERSION, self)
    }

    /// The link of these bytes.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes)
    }
}

/// Which links of an org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkPlace {
    /// Every one.
    Org,
    /// Those that go out from an entity.
    From(Entity),
    /// Those that lead to an entity.
    To(Entity),
}

/// Where a link stands in the order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSpot {
    /// By type first.
    pub link_type: LinkType,
    /// Then by id.
    pub id: LinkId,
}

impl LinkSpot {
    /// The place of a link.
    #[must_use]
    pub fn of(link: &Link) -> Self {
        Self { link_type: link.link_type, id: link.id() }
    }
}

/// What part of a list is read. At least one link is given when there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkWindow {
    /// Only this type.
    pub link_type: Option<LinkType>,
    /// After this place.
    pub after: Option<LinkSpot>,
    /// Most links.
    pub limit: usize,
    /// Most bytes of metadata.
    pub bytes: usize,
}

/// What became of a link that was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutLink {
    /// It is there now.
    New,
    /// This one was there before, and still is.
    There(Box<Link>),
    /// The org has as many as it may.
    Full,
}

/// The links. A link and its places in both indexes are written and removed in one commit.
pub trait LinkStore: Send + Sync {
    /// Writes links that are not there yet, as long as their org has fewer than `org_max`, in one durable commit. What is
    /// told to have been there is durable, too.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`]; else when the engine fails, and then whether they are there is unknown.
    fn put_links(&self, links: &[Link], org_max: u64) -> Result<Vec<PutLink>, StoreError>;

    /// Removes a link durably; true when there was one.
    ///
    /// # Errors
    /// When the engine fails; whether it is gone is then unknown.
    fn remove_link(&self, id: LinkId) -> Result<bool, StoreError>;

    /// A link.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn link(&self, id: LinkId) -> Result<Option<Link>, StoreError>;

    /// Links of an org, by type and then by id, and whether there are more.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn links(&self, org: &str, place: &LinkPlace, window: LinkWindow) -> Result<(Vec<Link>, bool), StoreError>;

    /// How many links an org has.
    ///
    /// # Errors
    /// When the engine fails.
    fn link_count(&self, org: &str) -> Result<u64, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::clock::UnixMs;

    fn link() -> Link {
        Link {
            org: "acme".to_owned(),
            source: Entity::new("crm", "contact", "17"),
            target: Entity::new("erp", "customer", "C-9"),
            link_type: LinkType::Cascade,
            metadata: Some(r#"{"weight":1.10}"#.to_owned()),
            created: WriteContext {
                by: "key:k1".to_owned(),
                at: UnixMs(1_795_248_000_000),
                correlation_id: Some("c-1".to_owned()),
                ip: None,
            },
        }
    }

    #[test]
    fn the_bytes_and_the_id_of_a_link_are_as_they_always_were() {
        let bytes = link().encode().expect("encodes");
        assert_eq!(Link::decode(&bytes), Ok(link()));
        insta::assert_snapshot!(format!("{}\n{}", link().id(), hex::encode(bytes)));
    }

    #[test]
    fn an_id_names_org_ends_and_type_and_nothing_else() {
        let id = link().id();
        assert_eq!(LinkId::parse(&id.to_string()), Some(id));
        assert_eq!(Link { metadata: None, created: WriteContext::default(), ..link() }.id(), id);
        let others = [
            Link { org: "other".to_owned(), ..link() },
            Link { source: link().target, target: link().source, ..link() },
            Link { source: Entity::new("crm", "contac", "t17"), ..link() },
            Link { link_type: LinkType::Reference, ..link() },
        ];
        assert!(others.iter().all(|other| other.id() != id));
        for bad in
            ["", "lnk_", "lnk_12", "LNK_00000000000000000000000000000000", "lnk_0000000000000000000000000000000G"]
        {
            assert_eq!(LinkId::parse(bad), None, "{bad}");
        }
        assert_eq!(LinkId::parse(&id.to_string().to_uppercase()), None);
        assert_eq!(LinkType::ALL.map(|one| LinkType::of_byte(one.byte())), LinkType::ALL.map(Some));
    }
}
