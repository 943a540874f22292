// The only file that knows Cornerstone3D: three linked planes of a scan with its labels.
//
// Cornerstone's world is the scan's grid in mm: voxel (x, y, z) lies at (x·dx, y·dy, z·dz). Flips and
// rotations of the file are a matter of where its cameras stand (see geometry.js), so any affine will do.

import { cache, Enums, init, RenderingEngine, setVolumesForViewports, utilities, volumeLoader } from "@cornerstonejs/core";
import vtkPiecewiseFunction from "@kitware/vtk.js/Common/DataModel/PiecewiseFunction.js";
import vtkColorTransferFunction from "@kitware/vtk.js/Rendering/Core/ColorTransferFunction.js";

// Cornerstone asks for the slices' images by DICOM numbers, which these volumes have none of, and warns.
utilities.logger.getRootLogger("cs3d").setLevel("error");

export class VolumeView {
  #grid; #engine; #elements; #cameras; #image = null; #labels = null; #shown = 0; #window = [0, 1]; #smooth = true; #looks = "";

  /**
   * @param grid of the scan, from gridOf.
   * @param {HTMLElement[]} elements one for the plane across each axis of the file.
   */
  constructor(grid, elements) {
    this.#grid = grid;
    this.#elements = elements;
    this.#cameras = grid.planes.map(() => ({ centre: null, scale: null }));
    // One context for all planes: a volume is then held once in the graphics memory.
    init({ rendering: { renderingEngineMode: "contextPool", webGlContextCount: 1 } });
    cache.setMaxCacheSize(16 * 2 ** 30);
    this.#engine = new RenderingEngine("planes");
    this.#engine.setViewports(grid.planes.map((plane) => ({
      viewportId: `plane${plane.axis}`,
      type: Enums.ViewportType.ORTHOGRAPHIC,
      element: elements[plane.axis],
      defaultOptions: { orientation: this.#orientation(plane), background: [0, 0, 0] },
    })));
  }

  #orientation({ axis, right, down }) {
    const unit = ({ axis: along, sign }) => [0, 1, 2].map((n) => (n === along ? sign : 0));
    const [r, u] = [unit(right), unit({ ...down, sign: -down.sign })];
    const normal = [r[1] * u[2] - r[2] * u[1], r[2] * u[0] - r[0] * u[2], r[0] * u[1] - r[1] * u[0]];
    return { viewUp: u, viewPlaneNormal: normal, normal: normal[axis] };
  }

  #viewport(axis) { return this.#engine.getViewport(`plane${axis}`); }

  #volume(id, data) {
    const { shape, spacing } = this.#grid;
    const bits = 8 * data.BYTES_PER_ELEMENT;
    return volumeLoader.createLocalVolume(id, {
      scalarData: data,
      dimensions: shape,
      spacing,
      origin: [0, 0, 0],
      direction: [1, 0, 0, 0, 1, 0, 0, 0, 1],
      metadata: {
        BitsAllocated: bits, BitsStored: bits, HighBit: bits - 1, SamplesPerPixel: 1,
        PhotometricInterpretation: "MONOCHROME2", PixelRepresentation: data instanceof Int16Array ? 1 : 0,
        Modality: "OT", ImageOrientationPatient: [1, 0, 0, 0, 1, 0], PixelSpacing: [spacing[1], spacing[0]],
        FrameOfReferenceUID: "grid", Columns: shape[0], Rows: shape[1], voiLut: [], VOILUTFunction: "LINEAR",
      },
    });
  }

  /** Show a channel and labels. Both are flat, x fastest; the labels are read again where they changed. */
  async setVolumes(image, labels) {
    const old = [this.#image, this.#labels].filter(Boolean);
    this.#shown++;
    this.#image = `image${this.#shown}`;
    this.#labels = `labels${this.#shown}`;
    // Cornerstone takes no other types; only the picture is in single precision.
    const kinds = [Uint8Array, Int16Array, Uint16Array, Float32Array];
    this.#volume(this.#image, kinds.some((kind) => image instanceof kind) ? image : Float32Array.from(image));
    this.#volume(this.#labels, labels);
    await setVolumesForViewports(this.#engine, [
      { volumeId: this.#image },
      { volumeId: this.#labels, callback: ({ volumeActor }) => volumeActor.getProperty().setInterpolationTypeToNearest() },
    ], this.#grid.planes.map((plane) => `plane${plane.axis}`));
    for (const id of old) {
      const { imageIds } = cache.getVolume(id);
      cache.removeVolumeLoadObject(id);
      for (const slice of imageIds) cache.removeImageLoadObject(slice);
    }
    this.setWindow(...this.#window);
    this.setSmooth(this.#smooth);
    // Cornerstone 5.14 draws new volumes once before it puts their values into the graphics memory.
    await new Promise((resolve) => {
      this.#elements[0].addEventListener(Enums.Events.IMAGE_RENDERED, resolve, { once: true });
      this.render([0]);
    });
    for (const id of [this.#image, this.#labels]) cache.getVolume(id).vtkOpenGLTexture.modified();
    this.render();
  }

  /**
   * How objects look.
   *
   * @param objects {number, colour: "#rrggbb", hidden}
   * @param {number} opacity 0 to 1.
   */
  setObjects(objects, opacity) {
    const looks = JSON.stringify([this.#shown, opacity, objects.map(({ number, colour, hidden }) => [number, colour, hidden])]);
    if (looks === this.#looks) return;
    this.#looks = looks;
    const colours = vtkColorTransferFunction.newInstance(), shares = vtkPiecewiseFunction.newInstance();
    const last = Math.max(1, ...objects.map((one) => one.number));
    // Both tables begin and end at the same values, or vtk.js would shift the one against the other.
    for (const at of [0, 0.49, last + 0.5]) {
      colours.addRGBPoint(at, 0, 0, 0);
      shares.addPoint(at, 0);
    }
    for (const { number, colour, hidden } of objects) {
      const parts = [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16) / 255);
      // Steps: between two numbers, nothing may be mixed.
      for (const at of [number - 0.49, number + 0.49]) {
        colours.addRGBPoint(at, ...parts);
        shares.addPoint(at, hidden ? 0 : opacity);
      }
    }
    for (const { axis } of this.#grid.planes) {
      const actor = this.#viewport(axis).getActors().find((one) => one.referencedId === this.#labels)?.actor;
      if (!actor) continue;
      // A pixel of the table for every half number, at least.
      const width = Math.min(8192, Math.max(1024, 4 * (last + 1)));
      actor.getMapper().setColorTextureWidth?.(width);
      actor.getMapper().setOpacityTextureWidth?.(width);
      actor.getProperty().setRGBTransferFunction(0, colours);
      actor.getProperty().setScalarOpacity(0, shares);
    }
    this.render();
  }

  /** Read the labels of some slices (along z) again. */
  labelsChanged(slices) {
    const volume = cache.getVolume(this.#labels);
    for (const z of slices) volume.vtkOpenGLTexture.setUpdatedFrame(z);
    volume.imageData.modified();
    this.render();
  }

  /** Show values from `low` as black to `high` as white. */
  setWindow(low, high) {
    this.#window = [low, high];
    for (const { axis } of this.#grid.planes) {
      this.#viewport(axis).setProperties({ voiRange: { lower: low, upper: high } }, this.#image, true);
    }
    this.render();
  }

  /** Interpolate the picture between voxels, or show them as they are. */
  setSmooth(smooth) {
    this.#smooth = smooth;
    const kind = smooth ? Enums.InterpolationType.LINEAR : Enums.InterpolationType.NEAREST;
    for (const { axis } of this.#grid.planes) this.#viewport(axis).setProperties({ interpolationType: kind }, this.#image, true);
    this.render();
  }

  /** Show the planes through a voxel. */
  show(voxel, axes = [0, 1, 2]) {
    for (const axis of axes) {
      const camera = this.#cameras[axis], { shape, spacing } = this.#grid;
      if (!camera.centre) this.fit(axis);
      const focus = camera.centre.slice();
      focus[axis] = voxel[axis] * spacing[axis];
      const away = this.#orientation(this.#grid.planes[axis]).normal * 2 * Math.max(...shape.map((n, a) => n * spacing[a]));
      this.#viewport(axis).setCamera({
        focalPoint: focus,
        position: focus.map((value, a) => (a === axis ? value + away : value)),
        parallelScale: camera.scale,
        parallelProjection: true,
      });
    }
    this.render(axes);
  }

  /** Whole slices in view. */
  fit(axis) {
    const { shape, spacing, planes } = this.#grid, { right, down } = planes[axis];
    const box = this.#elements[axis].getBoundingClientRect();
    const [wide, high] = [right, down].map((one) => shape[one.axis] * spacing[one.axis]);
    this.#cameras[axis] = {
      centre: shape.map((n, a) => ((n - 1) / 2) * spacing[a]),
      scale: (Math.max(high, (wide * box.height) / Math.max(1, box.width)) / 2) * 1.04,
    };
  }

  /** Zoom by a factor; what is at `canvas` stays there. */
  zoom(axis, factor, canvas) {
    const before = this.worldAt(axis, canvas), camera = this.#cameras[axis];
    const largest = Math.max(...this.#grid.shape.map((n, a) => n * this.#grid.spacing[a])) * 2;
    const scale = Math.max(Math.min(...this.#grid.spacing) * 2, Math.min(largest, camera.scale / factor));
    const ratio = scale / camera.scale;
    camera.centre = camera.centre.map((c, a) => before[a] + (c - before[a]) * ratio);
    camera.scale = scale;
  }

  /** Move the picture by pixels. */
  pan(axis, dx, dy) {
    const [from, to] = [this.worldAt(axis, [0, 0]), this.worldAt(axis, [dx, dy])];
    this.#cameras[axis].centre = this.#cameras[axis].centre.map((c, a) => c - (to[a] - from[a]));
  }

  /** Place on the grid, in mm along the file's axes, under a point of a plane's element. */
  worldAt(axis, canvas) { return Array.from(this.#viewport(axis).canvasToWorld(canvas)); }

  /** The inverse of worldAt. */
  canvasAt(axis, world) { return Array.from(this.#viewport(axis).worldToCanvas(world)); }

  /** Draw; several requests within a frame are one. */
  render(axes = [0, 1, 2]) {
    if (this.#image) this.#engine.renderViewports(axes.map((axis) => `plane${axis}`));
  }

  /** Call back whenever a plane was drawn. */
  onDrawn(call) {
    this.#elements.forEach((element, axis) => element.addEventListener(Enums.Events.IMAGE_RENDERED, () => call(axis)));
  }

  /** The elements have other sizes now. */
  resize() { this.#engine.resize(true, true); }
}
