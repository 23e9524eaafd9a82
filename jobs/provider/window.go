package provider

import "time"

// PrevSuccess returns [jobs.Job].PrevSuccess of an attempt for tick. lastSuccess is the latest tick whose run had
// succeeded when the attempt started, or zero.
//
// The windows [PrevSuccess, tick) of the runs that succeed have no gap, in whatever order they succeed and however late
// lastSuccess is: it is always the end of the window of a run that succeeded, or zero. So each window begins within
// the time that is covered already, and the covered time stays in one piece. A lastSuccess that is late, or another
// run in progress, can only make windows overlap.
func PrevSuccess(lastSuccess, tick time.Time) time.Time {
	if lastSuccess.After(tick) {
		return tick // a later tick has covered the window
	}
	return lastSuccess
}

// Covered reports whether the window from prevSuccess to tick of an attempt overlaps the window of another run that
// has succeeded since the attempt started. last is the latest tick whose run has succeeded. A provider asks in the
// transaction that completes a job with [jobs.Transactional], keeping others from completing meanwhile. An attempt for
// which it reports true is rolled back, and made again with the rest of its window.
func Covered(prevSuccess, tick, last time.Time) bool {
	return prevSuccess.Before(tick) && last.After(prevSuccess)
}
