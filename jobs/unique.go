package jobs

// Unique makes Trigger return the ID of a live run (waiting, running or to be retried) of the same job and key, if
// there is one, instead of inserting another. key is 1 to 1,000 bytes; different jobs may use the same key. The keys of
// [UniqueWaiting] and [Latest] are apart from those of Unique. Of the three options, the last one given applies.
//
// If another open transaction has triggered the key with [TriggerTx], Trigger waits until that transaction ends. Keep
// such transactions short, trigger several keys always in the same order, and give ctx a deadline. If TriggerTx finds
// a run that is due and waiting, that run starts only after the commit. A run that is running, or not due yet, may
// start or have started before.
func Unique(key string) TriggerOption { return uniqueOption(UniqueModeLive, key) }

// UniqueWaiting is like [Unique], but a run in progress does not count: a trigger during a run inserts one more, since
// that run may have read its input before what the trigger is about. So the caller can change something, trigger, and
// be sure that a run of this key starts after the change. At most one run per key waits for its first attempt, however
// many triggers there are.
//
// A run that waits for a retry counts as waiting, because it will read its input again. It keeps its due time and its
// attempts, so triggers neither hurry a job that fails nor hide that it does. If a run fails while a later one of its
// key waits, it is retried beside it. If the waiting run is skipped or cancelled, so is what the triggers asked for.
//
// In a transaction ([TriggerTx]), the run starts after the commit, even if it was waiting before. Until tx ends, other
// triggers of the key wait. Keep such transactions short, trigger several keys always in the same order, and give ctx a
// deadline. On PostgreSQL, tx must have the isolation level read committed: at another one it does not see a run that
// was inserted since it began, and inserts a second one.
func UniqueWaiting(key string) TriggerOption { return uniqueOption(UniqueModeWaiting, key) }

// Latest is like [UniqueWaiting], with which it shares its keys, but the waiting run takes the data, metadata, priority
// and due time of this trigger. It keeps its ID. With [Delay], or the delay of the registration, this debounces: the
// job runs when its key has not been triggered for that long, with the data of the last trigger.
//
// After a trigger, a run with its data starts, unless a later trigger of the key replaces them first. A run that waits
// for a retry takes the new data too, but keeps its attempts, and is not due before that retry. A run in progress keeps
// its data, and the trigger inserts another. If the run in progress fails and the later one has started meanwhile, it
// is skipped instead of retried, so that old data never come after new ones. The two may still overlap, in which case
// either may end last; a handler that must not should check a version.
//
// If tx of [TriggerTx] is rolled back, the waiting run keeps what it had.
func Latest(key string) TriggerOption { return uniqueOption(UniqueModeLatest, key) }

// A UniqueMode says which runs count for the key of a [Request], and what happens to one that is found.
type UniqueMode int

// The modes of a key.
const (
	UniqueModeLive    UniqueMode = iota // of Unique
	UniqueModeWaiting                   // of UniqueWaiting
	UniqueModeLatest                    // of Latest
)

// String returns the name of the option.
func (m UniqueMode) String() string {
	switch m {
	case UniqueModeWaiting:
		return "UniqueWaiting"
	case UniqueModeLatest:
		return "Latest"
	default:
		return "Unique"
	}
}

func uniqueOption(mode UniqueMode, key string) TriggerOption {
	return triggerOption(func(r *Request) error {
		if key == "" || len(key) > 1000 {
			return invalidOption("%s: key of %d bytes, must be 1 to 1,000", mode, len(key))
		}
		r.Unique, r.UniqueMode = key, mode
		return nil
	})
}
