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

macro_rules! guards {
    ($($name:ident: $step:literal, $sentence:literal;)*) => {
        /// The guards; `GUARDS` says of each the step that it belongs to and what it demands.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Guard { $($name),* }

        pub const GUARDS: &[(Guard, &str, &str)] = &[$((Guard::$name, $step, $sentence)),*];
    };
}

guards! {
    AdoptLeftovers: "writer 1", "the dirty bits of a dead writer become to-do";
    AdoptedNotImaged: "writer 1", "no chunk adopted from a dead writer counts as imaged";
    EpochBeforeWrites: "writer 2", "the epoch is odd before the first write";
    CounterAtBegin: "writer 3", "a counter that is not last_cc makes everything to-do";
    BitBeforeWrite: "writer 4", "a dirty bit is set before the write, not at the end";
    HotJournalNotLogged: "writer end", "an unlock with a hot journal logs nothing";
    HeldExclusive: "writer end", "only a lock that was EXCLUSIVE ends a transaction";
    DowngradeBeforeLog: "writer end", "the log is written under SHARED, so that nobody else writes meanwhile";
    FullImageFirst: "writer 5", "a chunk's first record in a generation is its full image";
    FailedSwapNoticed: "writer 6", "a record whose swap of head failed is not in the log";
    SecondFailureIsTodo: "writer 6", "after two failed swaps the chunks become to-do";
    OverflowIsTodo: "writer 6", "what is not logged becomes to-do";
    TodoBeforeBitsClear: "writer 6", "the to-do is stored before the dirty bits are cleared";
    ImagedAfterSwap: "writer 7", "a chunk counts as imaged after the record is in the log";
    ImagedOfItsGeneration: "writer 7", "imaged_gen names the generation of the record, not the current one";
    LastCcAfterAppend: "writer 7", "last_cc is stored after the append, not when page 0 is written";
    LastCcBeforeBitsClear: "writer 7", "last_cc is stored before the dirty bits are cleared";
    ClearAdopted: "writer 7", "adopted bits are cleared with the own ones";
    BitsClearAfterLog: "writer 7", "dirty bits are cleared after the append";
    RollBackLogs: "writer 7", "a roll-back writes a record like a commit";
    ExclusiveEndsAtFinalise: "writer end", "exclusive mode ends a transaction when the journal is finalised, roll-backs too";
    ExclusiveEndsAfterCut: "writer end", "exclusive mode ends once more after the file was cut";
    ExclusivePidZeroed: "writer end", "exclusive_pid is 0 before EXCLUSIVE is released";
    RecordsCarryLength: "writer 5", "a record carries the file's length, a cut writes one";
    LookAtBegin: "recovery", "a writer looks at the control page's identity at begin";
    LookAtEnd: "recovery", "a writer looks at the control page's identity at end";
    LookAtAll: "recovery", "a writer looks at the control page's identity at begin or end";
    NewPageIsTodo: "recovery", "a new control page says that everything is to-do";
    MappedAnewIsTodo: "recovery", "a writer that has to map another control page says there that everything is to-do";
    StartTakesInflight: "copier 1", "what a dead copier had claimed is needed";
    StartWithoutRecordIsAll: "copier 1", "a missing record means that everything is needed";
    LeftoverIsNeeded: "copier 1", "the chunks of a left-over generation are needed";
    LeftoverIsInflight: "copier 1", "they are in flight before the generation is deleted";
    LeftoverNotReplayed: "copier 1", "a left-over generation is read from the file and not replayed";
    ManifestOfRecord: "copier 1", "another manifest than the record's, or the next, means that everything is needed";
    InflightBeforeTodoCleared: "copier 2", "what is claimed is in flight before it leaves the to-do";
    ClaimForEveryTarget: "copier 2", "what one target claims every target needs";
    SealBeforeSlices: "copier 3", "a log that is not empty is sealed before the first slice";
    OffersBecomeSlices: "copier 3", "offers become slices when a catch-up begins";
    StrangerMeansQuiet: "copier 4", "a counter that is not last_cc means everything, in quiet mode";
    SliceLock: "copier 4", "no slice under PENDING or EXCLUSIVE";
    SliceHotJournal: "copier 4", "no slice beside a hot journal";
    SliceEpoch: "copier 4", "no slice while the epoch moves";
    SliceCounter: "copier 4", "no slice while the counter moves";
    SliceLength: "copier 4", "no slice while the length moves";
    SliceMtime: "copier 4", "no slice while the modification time moves";
    ClockTicked: "copier 4", "no look at a modification time that the next write may repeat";
    ExclusivePidLives: "copier 4", "the owner in exclusive_pid lives";
    ExclusiveEvenEpoch: "copier 4", "under a kept EXCLUSIVE a slice needs an even epoch";
    ExclusiveCounts: "copier 4", "a kept EXCLUSIVE does not keep slices away";
    BitsSeenClear: "copier 5", "each dirty bit in reading is seen clear once";
    BitsBeforeSeal: "copier 5", "the bits are looked at before the seal";
    QuietMode: "copier 6", "bits that stay set because somebody died are read in quiet mode";
    QuietReadsAllDirty: "copier 6", "quiet mode reads everything dirty";
    QuietLock: "copier 6", "quiet means no lock and no hot journal";
    QuietEpoch: "copier 6", "quiet means that the epoch has not moved since before the first slice";
    QuietMtime: "copier 6", "quiet means that the modification time has not moved since before the first slice";
    QuietCheckedAgain: "copier 6", "quiet is checked again after the replay";
    QuietReadsOverride: "copier 6", "what was read in quiet mode overrides the log";
    CounterAtEnd: "copier 7", "the counter is the noted one or last_cc at the end";
    SealedIsExact: "copier 8", "head moves only from what sealed says";
    SealedIsInflight: "copier 8", "the chunks of a sealed generation are in flight before its name goes";
    OfferedToEveryTarget: "copier 8", "a sealed generation is offered to every target";
    DamagedLogIsAll: "copier 8", "a damaged log means that everything is needed";
    ClaimAfterSeal: "copier 9", "the to-do is claimed after the seal";
    NeedBeforePublish: "copier 9", "a need that arose meanwhile sends the catch-up back";
    TakeWithClaim: "copier 10", "offers are taken in the same mutual exclusion as the last claim";
    LookBeforePublish: "copier 10", "a copier looks at the control page's identity before it publishes";
    LookWhileWaiting: "recovery", "a copier that has to wait looks at the control page's identity";
    FailureIsNeeded: "copier 10", "what was taken for a failed publication is needed again";
    LastRecordsNeeds: "copier 10", "the record says what is in need and offers by now";
    OthersRecordsFirst: "copier 10", "the other targets' records say what they lack before inflight is cleared";
    InflightLast: "copier 10", "inflight is cleared after the record is written";
    PublishIsConditional: "copier 10", "a PUT names the ETag of its base";
    OwnAnswerWhole: "copier 10", "a refused PUT succeeded only if the manifest there is the same one";
    OvertakenIsNeeded: "copier 10", "what was taken for a refused PUT is needed again";
    RecordOfItsPage: "copier 10", "a record belongs to the control page of its copier";
    UnchangedIsPublished: "copier 10", "a publication that changes nothing is made all the same";
    IdleCounter: "copier 11", "a counter that is not the manifest's means everything";
    IdleDirty: "copier 11", "dirty bits with an odd epoch and no lock are needed";
    OncePerEpoch: "copier 11", "leftovers of one epoch are read once";
    TargetsApart: "copier", "no step of one target waits for another's store";
}
