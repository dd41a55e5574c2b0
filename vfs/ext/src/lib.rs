//! The loadable extension and static library: registration, configuration, logging and the copier's wiring.
