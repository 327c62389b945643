//! Who watches keys of a shard: counted over all shards, so that the shard can stop noting what is touched when nobody
//! does.
//!
//! A client may be served by another thread than the shard whose keys it watches, so it holds a share in that shard's
//! count from the moment when its WATCH is on its way until what it watches is forgotten or its EXEC is answered.
//! However that ends, with the transaction, the connection or a refusal, the share is given back when it is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many watch keys of one shard.
#[derive(Clone, Debug, Default)]
pub struct Watchers(Arc<AtomicUsize>);

impl Watchers {
    /// One more.
    pub fn enter(&self) -> Watching {
        // A shard that has got the WATCH sees this: whatever brought it there came later.
        self.0.fetch_add(1, Relaxed);
        Watching(self.0.clone())
    }

    /// Whether nobody does.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// One share in the count of a shard.
#[derive(Debug)]
pub struct Watching(Arc<AtomicUsize>);

impl Watching {
    /// Whether both are of the same shard.
    pub fn is_of_same_shard(&self, other: &Watching) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Clone for Watching {
    fn clone(&self) -> Self {
        Watchers(self.0.clone()).enter()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_watched_until_the_last_share_is_given_back() {
        let (shard, other) = (Watchers::default(), Watchers::default());
        assert!(shard.is_empty());
        let one = shard.enter();
        let two = shard.clone().enter();
        let third = one.clone();
        assert!(one.is_of_same_shard(&third) && !one.is_of_same_shard(&other.enter()));
        drop(one);
        drop(two);
        assert!(!shard.is_empty() && other.is_empty());
        std::thread::spawn(move || drop(third)).join().expect("the thread ends");
        assert!(shard.is_empty());
    }
}
