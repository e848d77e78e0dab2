package image

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

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
	Name      string // for people: need not be unique; 1 to 255 characters

	Format     Format
	Status     Status
	Reason     string // why Status is Failed, in words for the owner; else empty
	Visibility Visibility
	SharedWith []string // ids of other projects that may use it, sorted

	// What the content is, once the image is Active.
	Size         int64  // bytes stored
	VirtualBytes int64  // bytes of the disk that a guest sees
	SHA256       string // of the content, in lower case hexadecimal

	WantSHA256 string // what its owner said the content has; empty: any

	MinDiskGiB int // the smallest root disk to launch it with; 0: its virtual size alone counts
	MinRAMMiB  int // the smallest memory to launch it with; 0: any

	KernelID, RamdiskID string            // images to boot this disk with; empty: it boots by itself
	Properties          map[string]string // free to its owner, bounded

	Created, Updated time.Time // UTC

	Token, TokenHash string // of the call that registered it, when it gave a token

	From string // the host that is to bring the content, while one is

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

// Bootable returns nil if an instance with so much memory (MiB) and so large a root disk (GiB; 0: as large as the
// image) can be made of the image. An image without content is FailedPrecondition, one that is no disk or needs more is
// InvalidArgument.
func (i Image) Bootable(memoryMiB, diskGiB int) error {
	switch {
	case !i.Format.Disk():
		return fmt.Errorf("image %s is a %s image, an instance needs a disk (raw or qcow2): %w", i.ID, i.Format,
			errdefs.ErrInvalidArgument)
	case i.Status != Active:
		return fmt.Errorf("image %s is %s, must be active: %w", i.ID, i.Status, errdefs.ErrFailedPrecondition)
	case memoryMiB < i.MinRAMMiB:
		return fmt.Errorf("image %s needs %d MiB of memory, the flavor has %d: %w", i.ID, i.MinRAMMiB, memoryMiB,
			errdefs.ErrInvalidArgument)
	case diskGiB != 0 && int64(diskGiB)<<30 < i.MinDiskBytes():
		return fmt.Errorf("image %s needs a root disk of %d bytes, the flavor has %d GiB (%d bytes): %w", i.ID, i.MinDiskBytes(),
			diskGiB, int64(diskGiB)<<30, errdefs.ErrInvalidArgument)
	}
	return nil
}

// blobID names the content of the last upload in [Blobs].
func (i Image) blobID() string { return i.ID + "." + strconv.FormatUint(i.Upload, 10) }
