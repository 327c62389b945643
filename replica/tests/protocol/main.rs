//! The protocol as a whole: several replicas wired together in one thread.
//!
//! - [`world`] is the cluster: replicas, disks, network, and the facts that must hold after each step.
//! - [`transcripts`] are stories: a script says what happens, the checked-in trace says what the replicas did.
//! - [`cluster`] lets chance write the stories, and checks nothing but the facts.

mod cluster;
mod transcripts;
mod world;
