//! Every decoder against everything: what was encoded comes back, and what was not never gets through, never panics and
//! never makes anybody wait for or allocate more than a bound.

mod asks;
mod damage;
mod golden;
mod hello;
mod items;
mod message;
mod program;
mod reply;
mod request;
mod stream;
mod superblock;
