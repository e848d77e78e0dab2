package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Spec is an image to be registered. It belongs to the caller's project.
type Spec struct {
	Name       string     // required; 1 to 255 characters, none of them a control character
	Format     Format     // required
	Visibility Visibility // "": Private
	SHA256     string     // what the content must have, in hexadecimal; "": any

	MinDiskGiB int // 0 to 1,048,576
	MinRAMMiB  int // 0 to 1,048,576

	// KernelID and RamdiskID are active images, which the caller can see, to boot a raw or qcow2 image with. A ramdisk
	// needs a kernel.
	KernelID, RamdiskID string

	Properties map[string]string // at most 128; keys of 1 to 255 bytes, values of at most 255

	// Token makes the call repeatable: under one token a project registers one image, and is given it again. At
	// most 64 printable ASCII characters; "": every call registers another.
	Token string
}

// The bounds of a [Spec].
const (
	maxName       = 255
	maxMin        = 1 << 20
	maxProperties = 128
	maxProperty   = 255
	maxToken      = 64
)

func (s *Spec) check() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("image: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if s.Visibility == "" {
		s.Visibility = Private
	}
	switch {
	case !validText(s.Name, 1, maxName):
		return bad("Name", "must have 1 to %d characters, none of them a control character", maxName)
	case !s.Format.Valid():
		return bad("Format", "is %.20q, must be raw, qcow2, aki or ari", s.Format)
	case s.Visibility != Private && s.Visibility != Public:
		return bad("Visibility", "is %.20q, must be private or public", s.Visibility)
	case s.MinDiskGiB < 0 || s.MinDiskGiB > maxMin:
		return bad("MinDiskGiB", "is %d, must be 0 to %d", s.MinDiskGiB, maxMin)
	case s.MinRAMMiB < 0 || s.MinRAMMiB > maxMin:
		return bad("MinRAMMiB", "is %d, must be 0 to %d", s.MinRAMMiB, maxMin)
	case !s.Format.Disk() && (s.KernelID != "" || s.RamdiskID != "" || s.MinDiskGiB != 0 || s.MinRAMMiB != 0):
		return bad("KernelID, RamdiskID, MinDiskGiB and MinRAMMiB", "must be empty for a kernel or ramdisk")
	case s.RamdiskID != "" && s.KernelID == "":
		return bad("KernelID", "is empty, a RamdiskID needs one")
	case !validToken(s.Token):
		return bad("Token", "must have at most %d printable ASCII characters", maxToken)
	}
	if sum, err := hex.DecodeString(s.SHA256); err != nil || len(sum) != 0 && len(sum) != sha256.Size {
		return bad("SHA256", "must be 64 hexadecimal digits or empty")
	}
	return checkProperties(s.Properties)
}

func checkProperties(all map[string]string) error {
	if len(all) > maxProperties {
		return fmt.Errorf("image: Properties has %d entries, at most %d are possible: %w", len(all), maxProperties,
			errdefs.ErrInvalidArgument)
	}
	for key, value := range all {
		if len(key) == 0 || len(key) > maxProperty || len(value) > maxProperty || !utf8.ValidString(key) || !utf8.ValidString(value) {
			return fmt.Errorf("image: property %.40q must have a key of 1 to %d and a value of 0 to %d bytes of UTF-8: %w", key,
				maxProperty, maxProperty, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func validText(s string, least, most int) bool {
	n := utf8.RuneCountInString(s)
	if n < least || n > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

func validToken(s string) bool {
	for _, c := range []byte(s) {
		if c < '!' || c > '~' {
			return false
		}
	}
	return len(s) <= maxToken
}

// hash tells whether two calls with one token asked for the same.
func (s Spec) hash() string {
	b, _ := json.Marshal(s) // strings, numbers and a map of strings: it can't fail
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Register records an image without content. The same spec with the same token returns the image that was
// registered first, as it is now; another spec with that token is AlreadyExists.
func (s *Service) Register(ctx context.Context, spec Spec) (Image, error) {
	if err := spec.check(); err != nil {
		return Image{}, err
	}
	caller, err := s.cfg.Policy.Authorize(ctx, "image:register", "")
	if err != nil {
		return Image{}, err
	}
	if spec.Visibility == Public {
		if _, err := s.cfg.Policy.Authorize(ctx, "image:publish", caller.ProjectID); err != nil {
			return Image{}, err
		}
	}
	fresh := spec.image(caller)
	var img Image
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
		img, err = register(tx, caller, fresh)
		return err
	})
	return img, err
}

// image returns the record of a new image.
func (s Spec) image(caller auth.Caller) Image {
	now := time.Now().UTC()
	fresh := Image{
		ID: uuid.NewString(), ProjectID: caller.ProjectID, UserID: caller.UserID, Name: s.Name, Format: s.Format,
		Status: Queued, Visibility: s.Visibility, WantSHA256: s.SHA256, MinDiskGiB: s.MinDiskGiB, MinRAMMiB: s.MinRAMMiB,
		KernelID: s.KernelID, RamdiskID: s.RamdiskID, Properties: maps.Clone(s.Properties), Created: now, Updated: now,
		Token: s.Token,
	}
	if s.Token != "" {
		fresh.TokenHash = s.hash()
	}
	return fresh
}

func register(tx *state.Tx, caller auth.Caller, fresh Image) (Image, error) {
	if err := auth.CheckProject(tx, fresh.ProjectID); err != nil {
		return Image{}, err
	}
	if fresh.Token != "" {
		old, err := Images.One(tx, "token", fresh.ProjectID+"/"+fresh.Token)
		switch {
		case err == nil && old.TokenHash == fresh.TokenHash:
			return old, nil
		case err == nil:
			return Image{}, fmt.Errorf("image: Token was used to register image %s with another request: %w", old.ID,
				errdefs.ErrAlreadyExists)
		}
	}
	if err := checkPart(tx, caller, "KernelID", fresh.KernelID, Kernel, fresh.Visibility); err != nil {
		return Image{}, err
	}
	if err := checkPart(tx, caller, "RamdiskID", fresh.RamdiskID, Ramdisk, fresh.Visibility); err != nil {
		return Image{}, err
	}
	for _, id := range nonEmpty(fresh.KernelID, fresh.RamdiskID) {
		if err := touch(tx, id); err != nil {
			return Image{}, err
		}
	}
	return fresh, Images.Insert(tx, fresh)
}

// touch writes a record anew, as it is. Whoever deletes an image looks whether others boot with it, and can't see one that
// another process has just registered; but that this record has changed, the log tells it.
func touch(tx *state.Tx, id string) error {
	img, err := Images.Get(tx, id)
	if err != nil {
		return err
	}
	return Images.Put(tx, img)
}

// checkPart holds the kernel or ramdisk of an image to be one, and to be usable by all who can use the image.
func checkPart(r state.Reader, caller auth.Caller, field, id string, format Format, visibility Visibility) error {
	if id == "" {
		return nil
	}
	part, err := Visible(r, caller, id)
	switch {
	case err != nil:
		return fmt.Errorf("image: %s: %w", field, err)
	case part.Format != format:
		return fmt.Errorf("image: %s names a %s image, must be %s: %w", field, part.Format, format, errdefs.ErrInvalidArgument)
	case part.Status != Active:
		return fmt.Errorf("image: %s: image %s is %s, must be active: %w", field, id, part.Status, errdefs.ErrFailedPrecondition)
	case visibility == Public && part.Visibility != Public:
		return fmt.Errorf("image: %s: image %s is private, that of a public image must be public: %w", field, id,
			errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Create registers an image and takes in its content, and returns when it is active. If the content is refused or
// breaks off, nothing is left. With the token of an image that is active it returns that, and reads nothing.
func (s *Service) Create(ctx context.Context, spec Spec, content io.Reader) (Image, error) {
	img, err := s.Register(ctx, spec)
	if err != nil || img.Status == Active {
		return img, err
	}
	active, err := s.Upload(ctx, img.ID, content)
	if err != nil {
		s.undoCreate(ctx, img.ID)
		return Image{}, err
	}
	return active, nil
}
