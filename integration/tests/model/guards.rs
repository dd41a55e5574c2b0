//! Every guard of docs/PROTOCOL.md that can be switched off alone; `writer.rs` and `copier.rs` ask for them, `configurations.rs` says what refutes each.

/// A set of guards that are off.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Off(Option<Guard>);

impl Off {
    pub const NONE: Off = Off(None);

    pub fn only(guard: Guard) -> Off {
        Off(Some(guard))
    }

    pub fn lacks(&self, guard: Guard) -> bool {
        self.0 == Some(guard)
    }
}

/// What switching a guard off leads to.
#[derive(Clone, Copy)]
pub enum Expected {
    /// The configuration, by name, that yields a counterexample with the fewest states that were found.
    Refuted(&'static str),
    /// No counterexample is known; this configuration passes without the guard, because something else says the same.
    NotRefuted(&'static str, &'static str),
}

use Expected::{NotRefuted, Refuted};

macro_rules! guards {
    ($($name:ident: $step:literal, $sentence:literal, $expected:expr;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Guard { $($name),* }

        /// Of each guard: the step that it belongs to, what it demands, and what happens without it.
        pub const GUARDS: &[(Guard, &str, &str, Expected)] =
            &[$((Guard::$name, $step, $sentence, $expected)),*];
    };
}

guards! {
    AdoptLeftovers: "writer 1", "the dirty bits of a dead writer become to-do",
        Refuted("a writer dies");
    AdoptedNotImaged: "writer 1", "no chunk adopted from a dead writer counts as imaged",
        NotRefuted("a writer dies, and goes on", "the to-do of the same step sends whatever was taken from that generation back to the file");
    EpochBeforeWrites: "writer 2", "the epoch is odd before the first write",
        Refuted("a writer dies");
    CounterAtBegin: "writer 3", "a counter that is not last_cc makes everything to-do",
        Refuted("foreign");
    BitBeforeWrite: "writer 4", "a dirty bit is set before the write, not at the end",
        Refuted("exclusive, a writer dies");
    HotJournalNotLogged: "writer end", "an unlock with a hot journal logs nothing",
        Refuted("two writers, I/O error");
    HeldExclusive: "writer end", "only a lock that was EXCLUSIVE ends a transaction",
        Refuted("two writers, one dies");
    DowngradeBeforeLog: "writer end", "the log is written under SHARED, so that nobody else writes meanwhile",
        Refuted("two writers");
    FullImageFirst: "writer 5", "a chunk's first record in a generation is its full image",
        Refuted("one writer");
    FailedSwapNoticed: "writer 6", "a record whose swap of head failed is not in the log",
        Refuted("one writer");
    SecondFailureIsTodo: "writer 6", "after two failed swaps the chunks become to-do",
        Refuted("two targets");
    OverflowIsTodo: "writer 6", "what is not logged becomes to-do",
        Refuted("overflow");
    TodoBeforeBitsClear: "writer 6", "the to-do is stored before the dirty bits are cleared",
        Refuted("overflow");
    ImagedAfterSwap: "writer 7", "a chunk counts as imaged after the record is in the log",
        Refuted("one writer");
    ImagedOfItsGeneration: "writer 7", "imaged_gen names the generation of the record, not the current one",
        Refuted("one writer");
    LastCcAfterAppend: "writer 7", "last_cc is stored after the append, not when page 0 is written",
        Refuted("foreign, a writer dies");
    LastCcBeforeBitsClear: "writer 7", "last_cc is stored before the dirty bits are cleared",
        NotRefuted("foreign, a writer dies", "step 7 of the copier waits for one of the two numbers, and the log is sealed after that");
    ClearAdopted: "writer 7", "adopted bits are cleared with the own ones",
        Refuted("a writer dies");
    BitsClearAfterLog: "writer 7", "dirty bits are cleared after the append",
        Refuted("exclusive, a writer dies");
    RollBackLogs: "writer 7", "a roll-back writes a record like a commit",
        NotRefuted("two writers, I/O error", "what is restored is what log and store hold already; the record only saves reads");
    ExclusiveEndsAtFinalise: "writer end", "exclusive mode ends a transaction when the journal is finalised, roll-backs too",
        Refuted("exclusive mode");
    ExclusiveEndsAfterCut: "writer end", "exclusive mode ends once more after the file was cut",
        Refuted("exclusive, a writer dies, sizes");
    ExclusivePidZeroed: "writer end", "exclusive_pid is 0 before EXCLUSIVE is released",
        NotRefuted("exclusive and another, one dies", "as above");
    RecordsCarryLength: "writer 5", "a record carries the file's length, a cut writes one",
        Refuted("sizes");
    LookAtBegin: "recovery", "a writer looks at the control page's identity at begin",
        NotRefuted("exclusive, lost folder", "the look at the end finds the same");
    LookAtEnd: "recovery", "a writer looks at the control page's identity at end",
        NotRefuted("exclusive, lost folder", "the look at begin finds the same, and EXCLUSIVE keeps the copier of the new page from the file until then");
    LookAtAll: "recovery", "a writer looks at the control page's identity at begin or end",
        NotRefuted("exclusive, lost folder", "to the new page such a writer is a foreign one, which the counter gives away");
    NewPageIsTodo: "recovery", "a new control page says that everything is to-do",
        NotRefuted("exclusive, lost folder", "records of another page count as missing, which says the same");
    MappedAnewIsTodo: "recovery", "a writer that has to map another control page says there that everything is to-do",
        NotRefuted("exclusive, lost folder", "the new page was built with everything to-do, or the counter is not last_cc");
    StartTakesInflight: "copier 1", "what a dead copier had claimed is needed",
        Refuted("a copier dies");
    StartWithoutRecordIsAll: "copier 1", "a missing record means that everything is needed",
        Refuted("two targets, exclusive, a record is lost");
    LeftoverIsNeeded: "copier 1", "the chunks of a left-over generation are needed",
        Refuted("a copier dies");
    LeftoverIsInflight: "copier 1", "they are in flight before the generation is deleted",
        Refuted("exclusive, a copier dies twice");
    LeftoverNotReplayed: "copier 1", "a left-over generation is read from the file and not replayed",
        NotRefuted("exclusive, a copier dies twice", "offers become slices as soon as anything is needed, and are not older than the manifest under one mutex");
    ManifestOfRecord: "copier 1", "another manifest than the record's, or the next, means that everything is needed",
        NotRefuted("exclusive, a copier dies twice", "nobody but the copier writes the store in the model; in life a bucket is restored or shared");
    InflightBeforeTodoCleared: "copier 2", "what is claimed is in flight before it leaves the to-do",
        Refuted("overflow, a copier dies");
    ClaimForEveryTarget: "copier 2", "what one target claims every target needs",
        Refuted("two targets");
    SealBeforeSlices: "copier 3", "a log that is not empty is sealed before the first slice",
        Refuted("overflow");
    OffersBecomeSlices: "copier 3", "offers become slices when a catch-up begins",
        Refuted("overflow");
    StrangerMeansQuiet: "copier 4", "a counter that is not last_cc means everything, in quiet mode",
        Refuted("foreign");
    SliceLock: "copier 4", "no slice under PENDING or EXCLUSIVE",
        Refuted("foreign");
    SliceHotJournal: "copier 4", "no slice beside a hot journal",
        Refuted("foreign dies");
    SliceEpoch: "copier 4", "no slice while the epoch moves",
        NotRefuted("exclusive, a writer dies", "the modification time moves with every write that the epoch announces");
    SliceCounter: "copier 4", "no slice while the counter moves",
        NotRefuted("foreign dies", "the modification time moves with it");
    SliceLength: "copier 4", "no slice while the length moves",
        NotRefuted("sizes", "the modification time moves with it");
    SliceMtime: "copier 4", "no slice while the modification time moves",
        Refuted("foreign");
    ClockTicked: "copier 4", "no look at a modification time that the next write may repeat",
        Refuted("clock");
    ExclusivePidLives: "copier 4", "the owner in exclusive_pid lives",
        NotRefuted("exclusive and another, one dies", "the next transaction of ours makes the epoch odd, and a foreign lock names its process");
    ExclusiveEvenEpoch: "copier 4", "under a kept EXCLUSIVE a slice needs an even epoch",
        NotRefuted("exclusive, a writer dies", "the dirty bits of that transaction are waited for, and its record overrides the slice");
    ExclusiveCounts: "copier 4", "a kept EXCLUSIVE does not keep slices away",
        Refuted("exclusive mode");
    BitsSeenClear: "copier 5", "each dirty bit in reading is seen clear once",
        Refuted("exclusive, a writer dies");
    BitsBeforeSeal: "copier 5", "the bits are looked at before the seal",
        Refuted("one writer");
    QuietMode: "copier 6", "bits that stay set because somebody died are read in quiet mode",
        Refuted("a writer dies");
    QuietReadsAllDirty: "copier 6", "quiet mode reads everything dirty",
        Refuted("exclusive, overflow, a writer dies");
    QuietLock: "copier 6", "quiet means no lock and no hot journal",
        NotRefuted("foreign, a writer dies", "a holder that has not written has changed nothing, and the time shows when it does");
    QuietEpoch: "copier 6", "quiet means that the epoch has not moved since before the first slice",
        NotRefuted("exclusive, a writer dies", "the modification time moves with every write that the epoch announces");
    QuietMtime: "copier 6", "quiet means that the modification time has not moved since before the first slice",
        NotRefuted("foreign dies", "each slice looks at the time, and the counter gives a commit between two slices away");
    QuietCheckedAgain: "copier 6", "quiet is checked again after the replay",
        Refuted("a writer dies, and goes on");
    QuietReadsOverride: "copier 6", "what was read in quiet mode overrides the log",
        Refuted("foreign");
    CounterAtEnd: "copier 7", "the counter is the noted one or last_cc at the end",
        Refuted("foreign");
    SealedIsExact: "copier 8", "head moves only from what sealed says",
        Refuted("a copier dies");
    SealedIsInflight: "copier 8", "the chunks of a sealed generation are in flight before its name goes",
        Refuted("a copier dies");
    OfferedToEveryTarget: "copier 8", "a sealed generation is offered to every target",
        Refuted("two targets");
    DamagedLogIsAll: "copier 8", "a damaged log means that everything is needed",
        Refuted("lost log");
    ClaimAfterSeal: "copier 9", "the to-do is claimed after the seal",
        Refuted("overflow");
    NeedBeforePublish: "copier 9", "a need that arose meanwhile is read before anything is published",
        Refuted("overflow");
    MoreReadsDropped: "copier 9", "a catch-up that goes on reads once more what is needed again",
        Refuted("overflow");
    MoreReadsOffers: "copier 9", "offers become slices when a catch-up goes on",
        Refuted("overflow");
    MoreSealsFirst: "copier 9", "a log that is not empty is sealed before a catch-up goes on",
        Refuted("overflow");
    MoreBitsSeenClear: "copier 9", "the dirty bits of what it goes on to read are seen clear",
        Refuted("exclusive from the start, overflow, a writer dies");
    MoreQuietSinceFirst: "copier 9", "where a catch-up goes on, quiet means that nothing has moved since its very first look",
        Refuted("overflow");
    MoreFindsStrangers: "copier 9", "a counter that is not last_cc when a catch-up goes on means everything, in quiet mode",
        NotRefuted("foreign, overflow", "step 7 finds the same, against the counter of the very first look");
    MoreCounterOfFirst: "copier 9", "step 7 holds the counter against the very first look, rounds later too",
        NotRefuted("foreign, overflow", "the look that begins a round finds a stranger too");
    MoreCounterAtAll: "copier 9", "a stranger's commit between two rounds is found by the next look or by step 7",
        Refuted("foreign, overflow");
    QuietNeverGoesOn: "copier 9", "a catch-up in quiet mode starts over instead of going on",
        NotRefuted("overflow, a writer dies", "what was read while nothing moved is as good as any slice, the next writer makes a dead one's bits to-do, and the next round finds out anew whether it is quiet");
    TakeWithClaim: "copier 10", "offers are taken in the same mutual exclusion as the last claim",
        Refuted("two targets, overflow");
    LookBeforePublish: "copier 10", "a copier looks at the control page's identity before it publishes",
        Refuted("lost folder, late PUT, two copiers");
    LookWhileWaiting: "recovery", "a copier that has to wait looks at the control page's identity",
        Refuted("exclusive, lost folder");
    FailureIsNeeded: "copier 10", "what was taken for a failed publication is needed again",
        Refuted("failing store");
    LastRecordsNeeds: "copier 10", "the record says what is in need and offers by now",
        Refuted("two targets, exclusive, a copier dies");
    OthersRecordsFirst: "copier 10", "the other targets' records say what they lack before inflight is cleared",
        Refuted("two targets, exclusive, a copier dies");
    InflightLast: "copier 10", "inflight is cleared after the record is written",
        Refuted("two targets, exclusive, a copier dies");
    PublishIsConditional: "copier 10", "a PUT names the ETag of its base",
        Refuted("failing store");
    OwnAnswerWhole: "copier 10", "a refused PUT succeeded only if the manifest there is the same one",
        Refuted("failing store");
    OvertakenIsNeeded: "copier 10", "what was taken for a refused PUT is needed again",
        Refuted("failing store");
    RecordOfItsPage: "copier 10", "a record belongs to the control page of its copier",
        Refuted("lost folder, two targets, two copiers");
    UnchangedIsPublished: "copier 10", "a publication that changes nothing is made all the same",
        Refuted("reboot, late PUT");
    IdleCounter: "copier 11", "a counter that is not the manifest's means everything",
        Refuted("foreign");
    IdleDirty: "copier 11", "dirty bits with an odd epoch and no lock are needed",
        Refuted("exclusive, a writer dies");
    OncePerEpoch: "copier 11", "leftovers of one epoch are read once",
        Refuted("a writer dies");
    TargetsApart: "copier", "no step of one target waits for another's store",
        Refuted("two targets, B fails");
}
