//! A reader's view of replicated databases: conditional refresh, verified and cached chunks, restore.
