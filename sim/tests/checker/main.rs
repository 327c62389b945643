//! The checker of histories is itself checked: by hand, against a slow and simple one, and on histories whose truth is
//! known.

mod brute;
mod handmade;
mod random;
mod recorder;
mod size;
