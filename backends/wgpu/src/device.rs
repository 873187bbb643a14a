//! The adapter, and what runs on it: arrays in its memory, kernels from arrays to an array.
//!
//! Every kernel has the same layout, so that all are dispatched by one function: binding 0 is a
//! uniform buffer of settings (words of 32 bits), binding 1 the array that it writes, and from
//! binding 2 on are the arrays that it reads. Work is recorded as it is asked for, and submitted
//! when something is read back.

use crate::failure::{Failure, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use wgpu::util::DeviceExt;

/// What every kernel's source begins with.
const COMMON: &str =
    concat!(include_str!("../kernels/functions.wgsl"), include_str!("../kernels/workgroup.wgsl"));

/// The kernels' sources, by topic.
const SOURCES: [(&str, &str); 10] = [
    ("format", include_str!("../kernels/format.wgsl")),
    ("matmul", include_str!("../kernels/matmul.wgsl")),
    ("norm", include_str!("../kernels/norm.wgsl")),
    ("pointwise", include_str!("../kernels/pointwise.wgsl")),
    ("positions", include_str!("../kernels/positions.wgsl")),
    ("rule_heads", include_str!("../kernels/rule_heads.wgsl")),
    ("rule_linear", include_str!("../kernels/rule_linear.wgsl")),
    ("rule_maps", include_str!("../kernels/rule_maps.wgsl")),
    ("rule_norm", include_str!("../kernels/rule_norm.wgsl")),
    ("softmax", include_str!("../kernels/softmax.wgsl")),
];

/// Lanes of a workgroup, but for `matmul`, as in `workgroup.wgsl`.
const LANES: usize = 64;
/// Sides of a tile of `matmul`.
const TILE: usize = 16;
/// The most workgroups along one dimension, on every device.
const MOST_GROUPS: usize = 65_535;

/// A kernel: its file, and its entry point.
pub type Kernel = (&'static str, &'static str);

/// How many workgroups a kernel needs.
#[derive(Clone, Copy, Debug)]
pub enum Grid {
    /// One invocation for each of so many numbers.
    Numbers(usize),
    /// One workgroup for each of so many rows.
    Rows(usize),
    /// One workgroup for each tile of matrices: rows, columns, and how many matrices.
    Tiles(usize, usize, usize),
}

impl Grid {
    /// Workgroups along each dimension; what does not fit into one is spread over two.
    fn groups(self) -> [usize; 3] {
        let spread = |groups: usize| [groups.min(MOST_GROUPS), groups.div_ceil(MOST_GROUPS), 1];
        match self {
            Grid::Numbers(count) => spread(count.div_ceil(LANES)),
            Grid::Rows(rows) => spread(rows),
            Grid::Tiles(rows, columns, batch) => {
                [columns.div_ceil(TILE), rows.div_ceil(TILE), batch]
            }
        }
    }
}

/// Words of 32 bits in the device's memory: f32, or whole numbers, or two halves each.
#[derive(Clone, Debug)]
pub struct Array {
    buffer: wgpu::Buffer,
    /// Row-major shape of the numbers.
    pub shape: Vec<usize>,
}

impl Array {
    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The first size.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// What follows the first size.
    pub fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// A number of a kernel's settings, as the word that it is there.
pub trait Setting {
    /// The word.
    fn word(self) -> u32;
}

impl Setting for usize {
    fn word(self) -> u32 {
        // No array is larger: its bytes are counted before it is made.
        self as u32
    }
}

impl Setting for bool {
    fn word(self) -> u32 {
        u32::from(self)
    }
}

impl Setting for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

/// The settings of a kernel, in the order of its `Settings`.
macro_rules! settings {
    ($($value:expr),* $(,)?) => { &[$($crate::device::Setting::word($value)),*] };
}
pub(crate) use settings;

/// A device with the kernels that were used on it.
pub struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    description: String,
    kernels: RefCell<HashMap<Kernel, wgpu::ComputePipeline>>,
    recorded: RefCell<Option<wgpu::CommandEncoder>>,
    nothing: Array,
    /// The first thing that went wrong since it was asked.
    problem: Arc<Mutex<Option<String>>>,
}

impl Device {
    /// Opens the best adapter: a GPU where there is one, else a processor that acts as one.
    ///
    /// # Errors
    /// If there is none, or it does not open.
    pub fn open() -> Result<Device> {
        pollster::block_on(Device::open_adapter())
    }

    async fn open_adapter() -> Result<Device> {
        let instance = wgpu::Instance::default();
        let adapter = best_adapter(&instance).await?;
        let info = adapter.get_info();
        let wanted = wgpu::DeviceDescriptor {
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = adapter.request_device(&wanted).await;
        let (device, queue) =
            opened.map_err(|e| Failure::Error(format!("{} does not open: {e}", info.name)))?;
        let problem = Arc::new(Mutex::new(None));
        let kept = problem.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            if let Ok(mut first) = kept.lock() {
                first.get_or_insert(error.to_string());
            }
        }));
        Ok(Device {
            nothing: Array { buffer: stored(&device, &[]), shape: vec![0] },
            device,
            queue,
            description: format!("{}, {}", info.name, info.backend),
            kernels: RefCell::default(),
            recorded: RefCell::default(),
            problem,
        })
    }

    /// The adapter's name and the interface that it is reached by.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Brings bytes to the device, as an array of this shape.
    ///
    /// # Errors
    /// If it is too large for the device.
    pub fn upload(&self, bytes: &[u8], shape: &[usize]) -> Result<Array> {
        self.check_size(bytes.len())?;
        let buffer = stored(&self.device, bytes);
        Ok(Array { buffer, shape: shape.to_vec() })
    }

    /// An array of no numbers, to be given where a kernel reads none.
    pub fn nothing(&self) -> &Array {
        &self.nothing
    }

    /// Runs a kernel over `grid`; returns the array of `shape` that it writes. `settings` are the
    /// words of its `Settings`.
    ///
    /// # Errors
    /// If the array is too large for the device. What else goes wrong, [`Device::read`] says.
    pub fn run(
        &self,
        kernel: Kernel,
        grid: Grid,
        settings: &[u32],
        inputs: &[&Array],
        shape: &[usize],
    ) -> Result<Array> {
        let bytes = shape.iter().try_fold(4usize, |bytes, size| bytes.checked_mul(*size));
        let bytes = bytes.unwrap_or(usize::MAX);
        self.check_size(bytes)?;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.max(4) as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let array = Array { buffer, shape: shape.to_vec() };
        let [x, y, z] = grid.groups();
        if [x, y, z].iter().any(|groups| *groups > MOST_GROUPS) {
            return Err(Failure::Unsupported(format!("{shape:?} is too large for `{}`", kernel.1)));
        }
        if x * y * z > 0 {
            self.dispatch(kernel, [x, y, z], settings, inputs, &array);
        }
        Ok(array)
    }

    fn dispatch(
        &self,
        kernel: Kernel,
        groups: [usize; 3],
        settings: &[u32],
        inputs: &[&Array],
        output: &Array,
    ) {
        let mut kernels = self.kernels.borrow_mut();
        let pipeline = kernels.entry(kernel).or_insert_with(|| self.compile(kernel, inputs.len()));
        let settings = self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(settings),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let buffers = [&settings, &output.buffer].into_iter();
        let buffers = buffers.chain(inputs.iter().map(|array| &array.buffer));
        let entries: Vec<wgpu::BindGroupEntry> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bound = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.1),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut recorded = self.recorded.borrow_mut();
        let encoder =
            recorded.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &bound, &[]);
        pass.dispatch_workgroups(groups[0] as u32, groups[1] as u32, groups[2] as u32);
    }

    /// Compiles a kernel that reads so many arrays. The layout is said here and not deduced from
    /// the source, so that a kernel need not use all of its file's bindings.
    fn compile(&self, kernel: Kernel, inputs: usize) -> wgpu::ComputePipeline {
        let (file, entry) = kernel;
        let source = SOURCES.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(entry),
            source: wgpu::ShaderSource::Wgsl(format!("{COMMON}{source}").into()),
        });
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let kinds = [wgpu::BufferBindingType::Uniform, storage(false)].into_iter();
        let kinds = kinds.chain(std::iter::repeat_n(storage(true), inputs));
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(kinds)
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let group = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(entry),
            entries: &entries,
        });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(entry),
            bind_group_layouts: &[Some(&group)],
            immediate_size: 0,
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: Default::default(),
            cache: None,
        })
    }

    /// Runs what was asked for so far, and reads the first bytes of an array that a kernel wrote.
    ///
    /// # Errors
    /// If anything since the last time went wrong on the device.
    pub fn read(&self, array: &Array, bytes: usize) -> Result<Vec<u8>> {
        let size = bytes.next_multiple_of(4) as u64;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let encoder = self.recorded.take();
        let mut encoder =
            encoder.unwrap_or_else(|| self.device.create_command_encoder(&Default::default()));
        encoder.copy_buffer_to_buffer(&array.buffer, 0, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let (send, mapped) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // Nobody waits for it any more if this fails.
            let _ = send.send(result);
        });
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map_err(|e| failed(&e))?;
        mapped.recv().map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let view = staging.slice(..).get_mapped_range().map_err(|e| failed(&e))?;
        let mut read = view.to_vec();
        read.truncate(bytes);
        Ok(read)
    }

    /// Forgets what was recorded for a request that failed.
    pub fn forget(&self) {
        self.recorded.take();
        let _ = self.check();
    }

    /// Says what went wrong since it was asked last.
    fn check(&self) -> Result<()> {
        let problem = self.problem.lock().ok().and_then(|mut problem| problem.take());
        problem.map_or(Ok(()), |problem| Err(Failure::Error(problem)))
    }

    fn check_size(&self, bytes: usize) -> Result<()> {
        let limits = self.device.limits();
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        // Entries are counted in 32 bits.
        if bytes as u64 <= most.min(4 * u64::from(u32::MAX)) {
            return Ok(());
        }
        Err(Failure::Unsupported(format!("an array of {bytes} bytes: the device takes {most}")))
    }
}

/// A buffer of these bytes.
fn stored(device: &wgpu::Device, bytes: &[u8]) -> wgpu::Buffer {
    let mut contents = bytes.to_vec();
    // Whole words, and at least one: no binding may be empty.
    contents.resize(bytes.len().next_multiple_of(4).max(4), 0);
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: &contents,
        usage: wgpu::BufferUsages::STORAGE,
    })
}

fn failed(problem: &dyn std::fmt::Display) -> Failure {
    Failure::Error(format!("the device failed: {problem}"))
}

/// A GPU if there is one, else a processor that acts as one, as Mesa's llvmpipe does.
async fn best_adapter(instance: &wgpu::Instance) -> Result<wgpu::Adapter> {
    let options = |force_fallback_adapter| wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        force_fallback_adapter,
        ..wgpu::RequestAdapterOptions::default()
    };
    if let Ok(adapter) = instance.request_adapter(&options(false)).await {
        return Ok(adapter);
    }
    instance
        .request_adapter(&options(true))
        .await
        .map_err(|e| Failure::Error(format!("no Vulkan adapter (Mesa's llvmpipe would do): {e}")))
}
