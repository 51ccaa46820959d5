// Read a study's SEG, RTSTRUCT and SR by the code that web viewers (OHIF and others) read them with: dcmjs and cornerstone's
// adapters. Says how many voxels, contour points and numbers each lesion has there, and ends with 1 if anything fails.
//
//   npm install dcmjs@0.52.0 @cornerstonejs/adapters@5.14.0 @cornerstonejs/core@5.14.0 @cornerstonejs/tools@5.14.0 \
//     @babel/runtime@7                  in a folder of its own; then, in that folder,
//   node REPOSITORY/test/offline/viewers.mjs FOLDER_OF_PET_SLICES RESULTS/studies/STUDY
import fs from "fs";
import { createRequire } from "module";
import path from "path";
import { pathToFileURL } from "url";

globalThis.window ??= globalThis;
globalThis.self ??= globalThis;
const beside = path.join(process.cwd(), "node_modules");
const load = (name, file) => import(pathToFileURL(path.join(beside, name, file)));
const dcmjs = createRequire(path.join(beside, "x.js"))("dcmjs");
const core = await load("@cornerstonejs/core", "dist/esm/index.js");
const { adaptersSEG, adaptersSR } = await load("@cornerstonejs/adapters", "dist/esm/index.js");
const [slices, study] = process.argv.slice(2);
const list = (value) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);

function read(file) {
  const bytes = fs.readFileSync(file);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return { buffer, dataset: dcmjs.data.DicomMetaDictionary.naturalizeDataset(dcmjs.data.DicomMessage.readFile(buffer).dict) };
}

// What a viewer knows of the PET's slices, by the address of each, in the order of the body.
const images = fs.readdirSync(slices).map((name) => read(path.join(slices, name)).dataset);
images.sort((a, b) => Number(a.ImagePositionPatient[2]) - Number(b.ImagePositionPatient[2]));
const ids = images.map((image) => `pet:${image.SOPInstanceUID}`);
const known = {
  instance: (image) => image,
  generalSeriesModule: (image) => ({ modality: image.Modality, seriesInstanceUID: image.SeriesInstanceUID }),
  generalImageModule: (image) => ({ sopInstanceUID: image.SOPInstanceUID }),
  imagePixelModule: (image) => ({ bitsAllocated: 8, rows: image.Rows, columns: image.Columns, samplesPerPixel: 1 }),
  imagePlaneModule: (image) => {
    const numbers = image.ImageOrientationPatient.map(Number);
    const [rowPixelSpacing, columnPixelSpacing] = image.PixelSpacing.map(Number);
    return {
      rows: image.Rows, columns: image.Columns, rowPixelSpacing, columnPixelSpacing,
      frameOfReferenceUID: image.FrameOfReferenceUID, imageOrientationPatient: numbers,
      rowCosines: numbers.slice(0, 3), columnCosines: numbers.slice(3),
      imagePositionPatient: image.ImagePositionPatient.map(Number),
    };
  },
};
const provider = (kind, id) => (ids.includes(id) && known[kind] ? known[kind](images[ids.indexOf(id)]) : undefined);
core.metaData.addProvider(provider, 1);

async function seg(file) {
  const found = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(ids, read(file).buffer, {
    metadataProvider: { get: provider },
  });
  const counts = {};
  for (const image of found.labelMapImages.flat()) {
    for (const value of image.voxelManager.getScalarData()) if (value) counts[value] = (counts[value] ?? 0) + 1;
  }
  const segments = list(found.segMetadata.data).filter(Boolean);
  console.log(`SEG: ${segments.map((one) => one.SegmentLabel).join(", ")}; voxels ${JSON.stringify(counts)}`);
}

function rtstruct(file) {
  const { dataset } = read(file);
  const names = Object.fromEntries(list(dataset.StructureSetROISequence).map((roi) => [roi.ROINumber, roi.ROIName]));
  const points = {};
  for (const roi of list(dataset.ROIContourSequence)) {
    for (const contour of list(roi.ContourSequence)) {
      const uid = list(contour.ContourImageSequence)[0].ReferencedSOPInstanceUID;
      if (!ids.includes(`pet:${uid}`)) throw new Error(`RTSTRUCT: a contour refers to ${uid}, which is no slice`);
      if (contour.ContourData.length !== 3 * contour.NumberOfContourPoints) throw new Error("RTSTRUCT: points are missing");
      const name = names[roi.ReferencedROINumber];
      points[name] = (points[name] ?? 0) + contour.NumberOfContourPoints;
    }
  }
  const series = list(dataset.ReferencedFrameOfReferenceSequence)
    .flatMap((frame) => list(frame.RTReferencedStudySequence))
    .flatMap((one) => list(one.RTReferencedSeriesSequence))
    .map((one) => one.SeriesInstanceUID);
  if (!series.includes(images[0].SeriesInstanceUID)) throw new Error("RTSTRUCT: the PET series is not referred to");
  console.log(`RTSTRUCT: ${Object.values(names).join(", ")}; points ${JSON.stringify(points)}`);
}

function sr(file) {
  const { dataset } = read(file);
  const uids = Object.fromEntries(images.map((image, z) => [`${image.SOPInstanceUID}:1`, ids[z]]));
  adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(dataset, uids, { get: provider }, {});
  const code = (item) => list(item.ConceptNameCodeSequence)[0].CodeValue;
  const child = (item, wanted) => list(item.ContentSequence).find((one) => code(one) === wanted);
  for (const group of list(child(dataset, "126010").ContentSequence)) {
    const numbers = list(group.ContentSequence).filter((item) => item.ValueType === "NUM").map((item) => {
      const value = list(item.MeasuredValueSequence)[0];
      const unit = list(value.MeasurementUnitsCodeSequence)[0].CodeValue;
      return `${list(item.ConceptNameCodeSequence)[0].CodeMeaning} ${value.NumericValue} ${unit}`;
    });
    console.log(`SR: ${child(group, "112039").TextValue}: ${numbers.join("; ")}`);
  }
}

for (const [name, reader] of Object.entries({ "seg.dcm": seg, "rtstruct.dcm": rtstruct, "sr.dcm": sr })) {
  const file = path.join(study, name);
  if (fs.existsSync(file)) await reader(file);
}
process.exit(0);
