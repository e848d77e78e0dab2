package dhcp

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// The journal's files in Config.Dir.
const (
	leasesFile  = "leases"         // the journal: a header, then records
	freshFile   = "leases.new"     // one that is being made
	damagedFile = "leases.damaged" // one that had damage, kept for whoever wants to look
	lockFile    = "lock"           // held by the server that runs
)

// journalMagic fills the first slot of a journal.
const journalMagic = "dewpoint dhcp leases 1\n"

// spareSlots is how many records fit into a journal at least before it has to be replaced.
const spareSlots = 16 << 10

// journal is a file of fixed size, so that writing a record changes nothing but its bytes and a flush costs one write.
// When it is full it is replaced by one that has the leases alone.
type journal struct {
	dir  string
	lock *os.File
	file *os.File
	next int // slot
	size int // in slots
	buf  []byte
}

// openJournal takes the directory for this server and reads what an earlier one left. After an error it is to be tried again:
// another server may be about to end. damage says in words what could not be read, if anything.
func openJournal(dir string) (j *journal, leases map[string]lease, damage string, err error) {
	lock, err := takeLock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, nil, "", err
	}
	j = &journal{dir: dir, lock: lock}
	data, err := os.ReadFile(filepath.Join(dir, leasesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.close()
		return nil, nil, "", err
	}
	leases, damage = replay(data)
	if damage != "" {
		_ = os.Rename(filepath.Join(dir, leasesFile), filepath.Join(dir, damagedFile)) // only of use to people
	}
	return j, leases, damage, nil
}

// replay reads a journal. A batch that was not written in full is no damage: nobody was told of its leases.
func replay(data []byte) (leases map[string]lease, damage string) {
	leases = map[string]lease{}
	if len(data) == 0 {
		return leases, ""
	}
	if len(data) < recordSize || string(data[:len(journalMagic)]) != journalMagic {
		return leases, "the file does not begin as a lease journal does"
	}
	slots := len(data) / recordSize
	var torn, first, bad int // slots that can't be read since the last that can; the first bad one; all bad ones
	var tornAt int
	for slot := 1; slot < slots; slot++ {
		r, ok := getRecord(data[slot*recordSize:])
		if !ok {
			if torn == 0 {
				tornAt = slot
			}
			torn++
			continue
		}
		if torn > 0 && tornAt < int(r.first) { // written, and known to be, before this batch began
			if bad == 0 {
				first = tornAt
			}
			bad += min(torn, int(r.first)-tornAt)
		}
		torn = 0
		if r.kind == recordEnd {
			delete(leases, r.lease.tap)
		} else {
			leases[r.lease.tap] = r.lease
		}
	}
	if bad > 0 {
		damage = fmt.Sprintf("%d of %d records can't be read, the first at byte %d", bad, slots-1, first*recordSize)
	}
	return leases, damage
}

// write puts the records on disk before it returns. It is for a caller that has seen that they fit.
func (j *journal) write(records []record) error {
	need := len(records) * recordSize
	if cap(j.buf) < need {
		j.buf = make([]byte, need)
	}
	buf := j.buf[:need]
	for i, r := range records {
		r.first = uint32(j.next)
		r.put(buf[i*recordSize:])
	}
	if _, err := j.file.WriteAt(buf, int64(j.next)*recordSize); err != nil {
		return err
	}
	if err := flush(j.file); err != nil {
		return err
	}
	j.next += len(records)
	return nil
}

// fits tells whether there is room for n records.
func (j *journal) fits(n int) bool { return j.file != nil && j.next+n <= j.size }

// replace makes a new journal of these leases and n records that are to follow, in place of the old one.
func (j *journal) replace(leases map[string]lease, n int) error {
	j.drop()
	slots := 1 + len(leases) + max(spareSlots, 3*len(leases), n)
	data := make([]byte, slots*recordSize)
	copy(data, journalMagic)
	slot := 1
	for l := range maps.Values(leases) {
		record{recordLease, l, 1}.put(data[slot*recordSize:])
		slot++
	}
	path := filepath.Join(j.dir, freshFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(j.dir, leasesFile))
	}
	if err == nil {
		err = syncDir(j.dir)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	j.file, j.next, j.size = file, slot, slots
	return nil
}

// drop forgets the file, after an error that leaves open what it holds: the next write replaces it.
func (j *journal) drop() {
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
}

func (j *journal) close() {
	j.drop()
	_ = j.lock.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
