package image

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// Format is how the content of an image is laid out: [Raw], [QCOW2], [Kernel] or [Ramdisk]. It is declared by who
// registers the image, proven by package inspect, and never guessed.
type Format = inspect.Format

// The formats an image can have.
const (
	Raw     = inspect.Raw
	QCOW2   = inspect.QCOW2
	Kernel  = inspect.Kernel
	Ramdisk = inspect.Ramdisk
)

// Status is how far an image has come.
//
//	          Upload                content accepted
//	Queued ───────────► Uploading ───────────────────► Active
//	                    ▲  │
//	             Upload │  │ content refused, or the upload failed
//	                    │  ▼
//	                   Failed
//
// An upload that was killed leaves the image Uploading; it can be uploaded again, or deleted, at once.
type Status string

// The states of an image.
const (
	Queued    Status = "queued"    // registered, without content
	Uploading Status = "uploading" // content is arriving, or was when its process died
	Active    Status = "active"    // content is there, inspected, and never changes
	Failed    Status = "failed"    // the last upload failed; Reason says why
)

// Visibility says whose an image is to use.
type Visibility string

// Who can use an image.
const (
	Private Visibility = "private" // its project, and the projects it is shared with
	Public  Visibility = "public"  // everyone
)

// Image is the record of an image. Records are values: changing one changes nothing but the copy.
type Image struct {
	ID        string // a UUID
	ProjectID string // its owner
	UserID    string // who registered it
	Name      string // for people: need not be unique; 1 to 255 bytes

	Format     Format
	Status     Status
	Reason     string // why Status is Failed, in words for the owner; else empty
	Visibility Visibility
	SharedWith []string // ids of other projects that may use it, sorted

	// What the content is, once the image is Active.
	Size         int64  // bytes stored
	VirtualBytes int64  // bytes of the disk that a guest sees
	SHA256       string // of the content, in lower case hexadecimal

	MinDiskGiB int // the smallest root disk to launch it with; 0: its virtual size alone counts
	MinRAMMiB  int // the smallest memory to launch it with; 0: any

	KernelID, RamdiskID string            // images to boot this disk with; empty: it boots by itself
	Properties          map[string]string // free to its owner, bounded

	CreatedAt, UpdatedAt time.Time

	// Upload counts the uploads that were begun. The last one alone may finish, and its content is the blob that
	// belongs to the image; all others are leftovers.
	Upload uint64
}

// Clone returns a copy that shares nothing with i.
func (i Image) Clone() Image {
	i.SharedWith = slices.Clone(i.SharedWith)
	i.Properties = maps.Clone(i.Properties)
	return i
}

// MinDiskBytes is the smallest disk that the image can be launched on, in bytes.
func (i Image) MinDiskBytes() int64 {
	if !i.Format.Disk() {
		return 0
	}
	return max(i.VirtualBytes, int64(i.MinDiskGiB)<<30)
}

// UsableBy tells whether instances of a project may be made of the image, as far as ownership goes.
func (i Image) UsableBy(projectID string) bool {
	return i.Visibility == Public || i.ProjectID == projectID || slices.Contains(i.SharedWith, projectID)
}

// blobID names the content of the last upload in [Blobs].
func (i Image) blobID() string { return i.ID + "." + strconv.FormatUint(i.Upload, 10) }
