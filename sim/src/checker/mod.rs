//! Judges a history of client operations: is there an order of effects that explains every answer?
