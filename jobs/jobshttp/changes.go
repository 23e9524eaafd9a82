package jobshttp

import (
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
)

// haveHeader is the header in which the script sends the versions of the rows that it shows, in their order. The answer
// has only the rows with another version. Without the header, and if other rows are to be shown, it has all.
const haveHeader = "Jobs-Have"

// versionLength is the length of [row].Version, base64 of 24 bits.
const versionLength = 4

// maxHave is the number of bytes of the header. Servers and proxies refuse headers of 8 KiB. Rows beyond it are always
// sent.
const maxHave = 7000

// version returns a hash of all that the list shows of a job, except for times relative to now.
func (x *row) version() string {
	form, _ := json.Marshal(x) // rows have strings, numbers and flags only
	hash := fnv.New32a()
	_, _ = hash.Write(form)
	sum := hash.Sum32()
	sum ^= sum >> 24
	return base64.RawURLEncoding.EncodeToString([]byte{byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// modules returns the rows by module. If have has the versions of as many rows, it leaves out those that are the same,
// and part is true.
func modules(rows []*row, have string) (all []module, part bool) {
	part = have != "" && len(have) == min(len(rows)*versionLength, maxHave)
	for i, row := range rows {
		row.Version = row.version()
		at := i * versionLength
		if part && at < len(have) && have[at:at+versionLength] == row.Version {
			continue
		}
		if len(all) == 0 || all[len(all)-1].Name != row.Module {
			all = append(all, module{Name: row.Module})
		}
		last := &all[len(all)-1]
		last.Rows = append(last.Rows, row)
	}
	return all, part
}
