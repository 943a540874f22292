// The only file that knows Cornerstone3D: three linked planes of a scan with its labels.
//
// Cornerstone's world is the scan's grid in mm: voxel (x, y, z) lies at (x·dx, y·dy, z·dz). Flips and
// rotations of the file are a matter of where its cameras stand (see geometry.js), so any affine will do.

import { Enums, init, RenderingEngine, utilities } from "@cornerstonejs/core";
import vtkDataArray from "@kitware/vtk.js/Common/Core/DataArray.js";
import vtkImageData from "@kitware/vtk.js/Common/DataModel/ImageData.js";
import vtkPiecewiseFunction from "@kitware/vtk.js/Common/DataModel/PiecewiseFunction.js";
import vtkPlane from "@kitware/vtk.js/Common/DataModel/Plane.js";
import vtkColorTransferFunction from "@kitware/vtk.js/Rendering/Core/ColorTransferFunction.js";
import vtkImageResliceMapper from "@kitware/vtk.js/Rendering/Core/ImageResliceMapper.js";
import vtkImageSlice from "@kitware/vtk.js/Rendering/Core/ImageSlice.js";

utilities.logger.getRootLogger("cs3d").setLevel("error");

/** Let vtk.js draw without smoothing of edges, which slices have none of: in software it costs a lot. */
function drawPlainly() {
  const getContext = OffscreenCanvas.prototype.getContext, onPage = HTMLCanvasElement.prototype.getContext;
  const plain = (original) => function (kind, options) {
    return original.call(this, kind, kind === "webgl2" ? { ...options, antialias: false } : options);
  };
  OffscreenCanvas.prototype.getContext = plain(getContext);
  HTMLCanvasElement.prototype.getContext = plain(onPage);
}

export class VolumeView {
  #grid; #engine; #elements; #cameras; #slices = []; #window = [0, 1]; #smooth = true; #looks = "";

  /**
   * @param grid of the scan, from gridOf.
   * @param {HTMLElement[]} elements one for the plane across each axis of the file.
   */
  constructor(grid, elements) {
    this.#grid = grid;
    this.#elements = elements;
    this.#cameras = grid.planes.map(() => ({ centre: null, scale: null }));
    drawPlainly();
    // One context for all planes: a volume is then held once in the graphics memory.
    init({ rendering: { renderingEngineMode: "contextPool", webGlContextCount: 1 } });
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

  /** An array as vtk.js has it. */
  #data(values) {
    const data = vtkImageData.newInstance({ spacing: this.#grid.spacing, origin: [0, 0, 0] });
    data.setDimensions(this.#grid.shape);
    data.getPointData().setScalars(vtkDataArray.newInstance({ name: "values", values, numberOfComponents: 1 }));
    return data;
  }

  /** What draws a slice of an array on the plane across an axis. */
  #slice(axis, data, id) {
    const mapper = vtkImageResliceMapper.newInstance(), plane = vtkPlane.newInstance(), actor = vtkImageSlice.newInstance();
    plane.setNormal([0, 1, 2].map((n) => (n === axis ? 1 : 0)));
    mapper.setInputData(data);
    mapper.setSlicePlane(plane);
    actor.setMapper(mapper);
    return { uid: `${id}${axis}`, actor, plane };
  }

  /** Show a channel and labels. Both are flat, x fastest, and are read again where labelsChanged says so. */
  setVolumes(image, labels) {
    this.#looks = "";
    const pictures = this.#data(image), objects = this.#data(labels);
    this.#slices = this.#grid.planes.map(({ axis }) => {
      const slices = [this.#slice(axis, pictures, "image"), this.#slice(axis, objects, "labels")];
      const [picture, overlay] = slices.map(({ actor }) => actor.getProperty());
      picture.setInterpolationTypeToLinear();
      overlay.setInterpolationTypeToNearest();
      overlay.setUseLookupTableScalarRange(true);
      slices[1].actor.setForceTranslucent(true);
      this.#viewport(axis).setActors(slices.map(({ uid, actor }) => ({ uid, actor })));
      return slices;
    });
    this.setWindow(...this.#window);
    this.setSmooth(this.#smooth);
  }

  /**
   * How objects look.
   *
   * @param objects {number, colour: "#rrggbb", hidden}
   * @param {number} opacity 0 to 1.
   */
  setObjects(objects, opacity) {
    const looks = JSON.stringify([opacity, objects.map(({ number, colour, hidden }) => [number, colour, hidden])]);
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
    for (const [, { actor }] of this.#slices) {
      // A pixel of the table for every half number, at least.
      const width = Math.min(8192, Math.max(1024, 4 * (last + 1)));
      actor.getMapper().setColorTextureWidth(width);
      actor.getMapper().setOpacityTextureWidth(width);
      actor.getProperty().setRGBTransferFunction(0, colours);
      actor.getProperty().setPiecewiseFunction(0, shares);
    }
    this.render();
  }

  /** Read the labels of some slices (along z) again, and draw the planes across `axes`. */
  labelsChanged(slices, axes = [0, 1, 2]) {
    const [x, y] = this.#grid.shape, [, { actor }] = this.#slices[axes[0]];
    // All planes draw from the same texture, so the first of them brings it up to date.
    const property = actor.getProperty();
    property.setUpdatedExtents([...property.getUpdatedExtents(), ...[...slices].map((z) => [0, x - 1, 0, y - 1, z, z])]);
    this.render(axes);
  }

  /** Show values from `low` as black to `high` as white. */
  setWindow(low, high) {
    this.#window = [low, high];
    for (const [{ actor }] of this.#slices) {
      actor.getProperty().setColorWindow(high - low);
      actor.getProperty().setColorLevel((low + high) / 2);
    }
    this.render();
  }

  /** Interpolate the picture between voxels, or show them as they are. */
  setSmooth(smooth) {
    this.#smooth = smooth;
    for (const [{ actor }] of this.#slices) actor.getProperty().setInterpolationType(smooth ? 1 : 0);
    this.render();
  }

  /** Show the planes through a voxel. */
  show(voxel, axes = [0, 1, 2]) {
    for (const axis of axes) {
      const camera = this.#cameras[axis], { shape, spacing } = this.#grid;
      if (!camera.centre) this.fit(axis);
      const focus = camera.centre.slice();
      focus[axis] = voxel[axis] * spacing[axis];
      const towards = this.#orientation(this.#grid.planes[axis]).normal;
      this.#slices[axis]?.forEach(({ plane }, number) => {
        // Labels a hair nearer to the viewer than the picture.
        plane.setOrigin(focus.map((value, a) => (a === axis ? value + number * 0.01 * towards * spacing[axis] : value)));
      });
      const away = towards * 2 * Math.max(...shape.map((n, a) => n * spacing[a]));
      this.#viewport(axis).setCamera({
        focalPoint: focus,
        position: focus.map((value, a) => (a === axis ? value + away : value)),
        parallelScale: camera.scale,
        parallelProjection: true,
      });
      this.#viewport(axis).getRenderer().resetCameraClippingRange();
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
    if (this.#slices.length) this.#engine.renderViewports(axes.map((axis) => `plane${axis}`));
  }

  /** Call back whenever a plane was drawn. */
  onDrawn(call) {
    this.#elements.forEach((element, axis) => element.addEventListener(Enums.Events.IMAGE_RENDERED, () => call(axis)));
  }

  /** The elements have other sizes now. */
  resize() { this.#engine.resize(true, true); }
}
