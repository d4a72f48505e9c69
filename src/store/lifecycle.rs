//! The port of the projection that follows aggregates through their declared order (CAT-3).

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::ground::codec::{self, CodecError};
use crate::ground::ids::Seq;

/// Version of [`Place`].
const PLACE_VERSION: u8 = 1;
/// Version of [`Flag`].
const FLAG_VERSION: u8 = 1;
/// Version of [`Cursors`].
const CURSORS_VERSION: u8 = 1;

/// One declaration of one order: a change of it is another one, which begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Where an aggregate stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its state.
    pub state: String,
    /// The event that brought it there.
    pub seq: Seq,
}

/// An event that broke the declared order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// Of this declaration.
    pub generation: Generation,
    /// Its own id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Which aggregate it is about.
    pub aggregate_id: String,
    /// Where that stood.
    pub state: String,
    /// Where it stands since.
    pub now: String,
    /// The types that were in order there; the first of them.
    pub expected: Vec<String>,
}

/// How far each declaration has been followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursors(pub Vec<(Generation, Seq)>);

/// What one step of the projection has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// How far each declaration has been followed with it.
    pub cursors: Cursors,
    /// Where aggregates stand after it.
    pub places: Vec<(Generation, String, Place)>,
    /// What broke the order.
    pub flags: Vec<(Seq, Flag)>,
}

macro_rules! framed {
    ($($name:ident $version:ident),+) => {$(
        impl $name {
            /// Its bytes on disk.
            ///
            /// # Errors
            /// A mistake of the program.
            pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
                codec::encode($version, self)
            }

            /// The record of these bytes.
            ///
            /// # Errors
            /// When they are damaged.
            pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                codec::decode($version, bytes)
            }
        }
    )+};
}

framed!(Place PLACE_VERSION, Flag FLAG_VERSION, Cursors CURSORS_VERSION);

/// Where aggregates stand, and what broke their order.
pub trait LifecycleStore: Send + Sync {
    /// Writes what a step has found, all of it or nothing. Commits keep their order; a crash may take the last ones.
    ///
    /// # Errors
    /// When the engine fails.
    fn put_lifecycle(&self, commit: &Commit) -> Result<(), StoreError>;

    /// How far each declaration has been followed.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn lifecycle_cursors(&self) -> Result<Cursors, StoreError>;

    /// Where an aggregate stands.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn place(&self, generation: Generation, aggregate_id: &str) -> Result<Option<Place>, StoreError>;

    /// What is said of the event at this position.
    ///
    /// # Errors
    /// When the engine fails or the record is damaged.
    fn flag(&self, seq: Seq) -> Result<Option<Flag>, StoreError>;

    /// Flags after a position, in order: at most so many that `fits` and so many looked at.
    ///
    /// # Errors
    /// When the engine fails or a record is damaged.
    fn flags_after(
        &self,
        after: Seq,
        limit: usize,
        looked_at_max: usize,
        fits: &dyn Fn(&Flag) -> bool,
    ) -> Result<Vec<(Seq, Flag)>, StoreError>;

    /// Forgets flags before this position.
    ///
    /// # Errors
    /// When the engine fails.
    fn drop_flags(&self, before: Seq) -> Result<(), StoreError>;

    /// Forgets up to so many places of a declaration; how many it was.
    ///
    /// # Errors
    /// When the engine fails.
    fn forget_places(&self, generation: Generation, limit: usize) -> Result<usize, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_projection_are_as_they_always_were() {
        let place = Place { state: "paid".to_owned(), seq: Seq(70_000) };
        let flag = Flag {
            generation: Generation(3),
            event_id: "e1".to_owned(),
            event_type: "order.paid".to_owned(),
            aggregate_id: "7".to_owned(),
            state: "new".to_owned(),
            now: "paid".to_owned(),
            expected: vec!["order.placed".to_owned()],
        };
        let cursors = Cursors(vec![(Generation(3), Seq(70_000)), (Generation(4), Seq(1))]);
        let bytes = [place.encode(), flag.encode(), cursors.encode()].map(|bytes| bytes.expect("encodes"));
        assert_eq!(Place::decode(&bytes[0]), Ok(place));
        assert_eq!(Flag::decode(&bytes[1]), Ok(flag));
        assert_eq!(Cursors::decode(&bytes[2]), Ok(cursors));
        insta::assert_snapshot!(bytes.map(hex::encode).join("\n"));
    }
}
