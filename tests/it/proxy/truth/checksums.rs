//! What arrives is what was sent, whole, at clients that read slowly.
