// Comment: the settings that a film of ours holds in its own file, read from its boxes (ISO 14496-12, iTunes' list).

const HEADER = 16, MOST_BYTES = 2 ** 26;
const FULL_BOX = 4, DATA_HEAD = 8; // bytes before what such boxes hold

// The fields of the request that made a film, or null where it does not tell. `file` is an MP4.
export async function readComment(file) {
  try {
    const moov = await findMoov(file);
    const comment = moov && ["udta", "meta", "ilst", "\xa9cmt", "data"].reduce(inside, moov);
    return comment ? JSON.parse(new TextDecoder().decode(comment.subarray(DATA_HEAD))).ringlight ?? null : null;
  } catch {
    return null; // another's comment, or no film
  }
}

async function findMoov(file) {
  for (let place = 0; place + 8 <= file.size; ) {
    const head = new Uint8Array(await file.slice(place, place + HEADER).arrayBuffer());
    const { name, start, size } = boxAt(head, 0, file.size - place);
    if (name === "moov" && size <= MOST_BYTES) return new Uint8Array(await file.slice(place + start, place + size).arrayBuffer());
    place += size;
  }
  return null;
}

// What the first box of this name holds, of those in `bytes`.
function inside(bytes, wanted) {
  for (let place = 0; bytes && place + 8 <= bytes.length; ) {
    const { name, start, size } = boxAt(bytes, place, bytes.length - place);
    if (name === wanted) return bytes.subarray(place + start + (name === "meta" ? FULL_BOX : 0), place + size);
    place += size;
  }
  return null;
}

function boxAt(bytes, place, left) {
  const view = new DataView(bytes.buffer, bytes.byteOffset + place);
  const size = view.getUint32(0), name = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
  if (size === 1) return { name, start: 16, size: Number(view.getBigUint64(8)) };
  if (size !== 0 && size < 8) throw new RangeError("a box that is smaller than its head");
  return { name, start: 8, size: size || left };
}
