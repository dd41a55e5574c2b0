//! LIST over a directory store, with S3's results: keys in bytewise order, folders as common
//! prefixes, pages that continue after the last name returned.
//!
//! A folder sorts as its name with a `/`, so visiting entries in that order yields keys in order.
//! Of each folder only as many names are kept as the page can still hold; what a page did not reach
//! is read again by the next.

use super::meta;
use super::tree::{Fault, Folder, Tree, check_key, is_workshop};
use crate::{ListPage, Listed};
use std::collections::BinaryHeap;

/// One result, before the page is made.
enum Item {
    Object(Listed),
    Prefix(String),
}

impl Item {
    fn name(&self) -> &str {
        match self {
            Self::Object(listed) => &listed.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

struct Walk {
    delimiter: bool,
    after: Option<String>,
    /// Stop after this many: one more than the page holds, to know whether there is more.
    items_max: usize,
    items: Vec<Item>,
}

pub(super) fn list(
    tree: &Tree,
    prefix: &str,
    delimiter: bool,
    after: Option<String>,
    page_len: usize,
) -> Result<ListPage, Fault> {
    let mut walk = Walk {
        delimiter,
        after,
        items_max: page_len + 1,
        items: Vec::new(),
    };
    // Without its directory, the store's emptiness says nothing.
    tree.open_root()?;
    let (base, name_prefix) = prefix.split_at(prefix.rfind('/').map_or(0, |slash| slash + 1));
    let path = base.strip_suffix('/').unwrap_or(base);
    let has_keys = base.is_empty() || check_key(path).is_ok();
    if has_keys {
        match tree.folder(path) {
            Ok(folder) => walk.folder(&folder, base, name_prefix)?,
            Err(Fault::NotFound) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(walk.page(page_len))
}

impl Walk {
    fn is_full(&self) -> bool {
        self.items.len() >= self.items_max
    }

    /// Whether `child`, a key or a folder with its `/`, lies wholly in earlier pages.
    fn is_behind(&self, child: &str) -> bool {
        match &self.after {
            // Without delimiter, a folder may hold keys on both sides of the last one.
            Some(after) => {
                let is_split = !self.delimiter && child.ends_with('/') && after.starts_with(child);
                child <= after.as_str() && !is_split
            }
            None => false,
        }
    }

    /// Adds what is in `folder`, whose keys begin with `base`, as far as names begin with
    /// `name_prefix`.
    fn folder(&mut self, folder: &Folder, base: &str, name_prefix: &str) -> Result<(), Fault> {
        let mut done_to: Option<String> = None;
        while !self.is_full() {
            let keep = self.items_max - self.items.len();
            let mut smallest = BinaryHeap::with_capacity(keep + 1);
            folder.each(|name, is_folder| {
                if !name.starts_with(name_prefix) || is_workshop(base, name) {
                    return;
                }
                let child = format!("{base}{name}{}", if is_folder { "/" } else { "" });
                let is_done = done_to.as_ref().is_some_and(|done| child <= *done);
                if is_done || self.is_behind(&child) {
                    return;
                }
                smallest.push(child);
                if smallest.len() > keep {
                    smallest.pop();
                }
            })?;
            let children = smallest.into_sorted_vec();
            let is_last_round = children.len() < keep;
            for child in children {
                if self.is_full() {
                    return Ok(());
                }
                self.child(folder, base, &child)?;
                done_to = Some(child);
            }
            if is_last_round {
                return Ok(());
            }
        }
        Ok(())
    }

    fn child(&mut self, folder: &Folder, base: &str, child: &str) -> Result<(), Fault> {
        let name = &child[base.len()..];
        let Some(folder_name) = name.strip_suffix('/') else {
            // Gone since the folder was read: then it is not listed.
            if let Some(stat) = folder.object(name)? {
                let meta = meta(&stat);
                self.items.push(Item::Object(Listed {
                    key: child.to_owned(),
                    etag: Some(meta.etag),
                    len: meta.len,
                }));
            }
            return Ok(());
        };
        let below = match folder.child(folder_name) {
            Ok(below) => below,
            Err(Fault::NotFound) => return Ok(()),
            Err(fault) => return Err(fault),
        };
        if !self.delimiter {
            return self.folder(&below, child, "");
        }
        if holds_an_object(&below)? {
            self.items.push(Item::Prefix(child.to_owned()));
        }
        Ok(())
    }

    fn page(self, page_len: usize) -> ListPage {
        let mut page = ListPage::default();
        let is_more = self.items.len() > page_len;
        for item in self.items.into_iter().take(page_len) {
            if is_more {
                page.next = Some(item.name().to_owned());
            }
            match item {
                Item::Object(listed) => page.objects.push(listed),
                Item::Prefix(prefix) => page.prefixes.push(prefix),
            }
        }
        page
    }
}

/// S3 knows no empty folders; a writer that died between making one and its object leaves one.
fn holds_an_object(folder: &Folder) -> Result<bool, Fault> {
    let mut has_file = false;
    let mut folders = Vec::new();
    folder.each(|name, is_folder| {
        if !is_folder {
            has_file = true;
        } else if !has_file {
            folders.push(name.to_owned());
        }
    })?;
    if has_file {
        return Ok(true);
    }
    for name in folders {
        match folder.child(&name) {
            Ok(below) if holds_an_object(&below)? => return Ok(true),
            Ok(_) | Err(Fault::NotFound) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(false)
}
